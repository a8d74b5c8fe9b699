"""Options of the gateway."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GatewayOptions:
    """What the gateway accepts, and how much of it.

    root: folder below which callers may name files; None refuses paths. token: what `Authorization: Bearer` must have; None
    lets everybody in. queue: requests that are read, wait or are scored at a time; more get 429. in_flight: videos that are
    with Triton at a time. most_bytes: of a request's body, and of a file below `root`. most_items: videos in a request.
    body_seconds: for a body to arrive. deadline: seconds for a video, its wait included. frame_rate: of the frames of
    /compute, where a request has none. reward: the score that /compute gives, where a request names none. monitor: the
    record that `reelign monitor --out` writes, for /metrics.
    """

    root: Path | None = None
    token: str | None = None
    queue: int = 64
    in_flight: int = 8
    most_bytes: int = 64 << 20
    most_items: int = 64
    body_seconds: float = 30.0
    deadline: float = 120.0
    frame_rate: float | None = None
    reward: str = "Overall"
    monitor: Path | None = None
