"""The log of what was served: a JSON line for each request, which `reelign monitor` reads.

Each process of the model writes files of its own, one a day, so that no two share one. A batch is one write, without fsync.
Prompts are people's own words: a line has their number and a short digest, which separates prompts and no more. A log that
cannot be written never fails a request: the lines are lost, and counted.
"""

import contextlib
import hashlib
import os
import secrets
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import AwareDatetime, FiniteFloat, ValidationError, model_validator

from components.config.types import Section
from components.errors import BadInput

if TYPE_CHECKING:
    from components.reward.score import Clip, Score, Unscored
    from components.video.decode import VideoInfo

FOLDER = "REELIGN_SERVED_LOG"  # environment variable; without it there is no log
SHADOW = "reelign-shadow"  # id of requests that deploy makes to compare versions
KEEP_DAYS = 30  # with requests, counted by names of files: a clock that jumps ahead makes one day old, not all of them
FILE_BYTES, MOST_BYTES = 64 * 2**20, 4 * 2**30  # of one file; of all, the oldest go first
RETRY_SECONDS = 60.0  # after a write that failed: a full disk is not tried again with each request
MOST_REASON = 200
FILES = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]-*.jsonl"


class Served(Section):
    """A line. `log` and `number` name it, in whatever copy of its file. What could not be read of a request is null; either
    `normalised` and `overall` are there, or the reason why there is no score."""

    log: str
    number: int
    time: AwareDatetime
    model_version: str
    video: Literal["frames", "file"] | None
    frames: int | None
    height: int | None
    width: int | None
    fps: FiniteFloat | None
    words: int | None
    prompt: str | None  # digest
    normalised: dict[str, FiniteFloat] | None
    overall: FiniteFloat | None
    reason: str | None

    @model_validator(mode="after")
    def scored_or_refused(self) -> Self:
        refused = self.reason is not None
        if (self.normalised is None, self.overall is None) != (refused, refused):
            raise ValueError("a line has scores or a reason")
        return self


def describe(
    request: "tuple[Clip | str, str] | Unscored", answer: "Score | Unscored", info: "VideoInfo | None"
) -> dict[str, Any]:
    """The line of a request, without what the log adds. request: what was read of it; info: of its video file."""
    video, prompt = request if isinstance(request, tuple) else (None, None)
    kind = frames = height = width = fps = None
    if isinstance(video, str):
        kind = "file"
        if info is not None:
            frames, height, width, fps = info.frames, info.height, info.width, info.fps
    elif video is not None:
        kind, fps = "frames", video.fps
        frames, height, width = video.frames.shape[:3]
    refused = getattr(answer, "reason", None)
    return {
        "video": kind,
        "frames": frames,
        "height": height,
        "width": width,
        "fps": fps,
        "words": None if prompt is None else len(prompt.split()),
        "prompt": None if prompt is None else hashlib.sha256(prompt.encode()).hexdigest()[:12],
        "normalised": getattr(answer, "normalised", None),
        "overall": getattr(answer, "overall", None),
        # The path of a file is the server's own, and another one each time.
        "reason": refused and refused.removeprefix(f"{video}: " if kind == "file" else "")[:MOST_REASON],
    }


class ServedLog:
    """The log of one process. A file begins with the day, and after a write that failed: what a full disk cut off is then
    the last line of its file, as what a kill cut off."""

    def __init__(self, folder: str | None, model_version: str):
        self.folder = Path(folder) if folder else None
        self.model_version = model_version
        self.file: int | None = None
        self.day = self.name = ""
        self.number = self.size = 0
        self.closed_until = 0.0

    def write(self, lines: list[dict[str, Any]]) -> int:
        """Append lines as `describe` makes them; how many were lost."""
        if self.folder is None or not lines:
            return 0
        if time.monotonic() < self.closed_until:
            return len(lines)
        now = datetime.now(UTC)
        try:
            file = self.file
            if file is None or self.day != now.date().isoformat() or self.size >= FILE_BYTES:
                file = self.begin(self.folder, now)
            rows = [
                Served(log=self.name, number=self.number + place, time=now, model_version=self.model_version, **line)
                for place, line in enumerate(lines)
            ]
            text = "".join(f"{row.model_dump_json()}\n" for row in rows).encode()
            if os.write(file, text) < len(text):
                raise OSError("written in part")
        except OSError as error:
            self.close()
            self.closed_until = time.monotonic() + RETRY_SECONDS
            why = f"log of served requests: {error}; what comes within {RETRY_SECONDS:g} s is not logged"
            print(why, file=sys.stderr, flush=True)
            return len(lines)
        self.number += len(lines)
        self.size += len(text)
        return 0

    def begin(self, folder: Path, now: datetime) -> int:
        """Open a new file, and remove the oldest where there are too many."""
        self.close()
        folder.mkdir(parents=True, exist_ok=True)
        self.day, self.number, self.size = now.date().isoformat(), 0, 0
        # The process id alone would come again, in a container that was started anew soonest.
        self.name = f"{self.day}-{os.getpid()}-{secrets.token_hex(4)}"
        self.file = file = os.open(folder / f"{self.name}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        for path in too_many(folder):
            with contextlib.suppress(OSError):  # another process may be at it
                path.unlink()
        return file

    def close(self) -> None:
        if self.file is not None:
            os.close(self.file)
            self.file = None


def too_many(folder: Path) -> list[Path]:
    """Files of the log beyond the newest KEEP_DAYS days that it has, or beyond MOST_BYTES in all; not the newest day's."""
    files = sorted(folder.glob(FILES), key=lambda path: path.name[:10], reverse=True)
    days = sorted({path.name[:10] for path in files}, reverse=True)
    total, gone = 0, []
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
        if path.name[:10] in days[KEEP_DAYS:] or (total > MOST_BYTES and path.name[:10] != days[0]):
            gone.append(path)
    return gone


def read_served(folder: Path, since: datetime) -> Iterator[Served]:
    """The lines from `since` on, each once, whatever copies of files there are. BadInput where there is no folder, or a line
    is none. A last line without its end is being written, or was cut off by a kill, and is left out."""
    if not folder.is_dir():
        raise BadInput(folder, "no log of served requests; `reelign serve --served` makes one")
    read: dict[str, int] = {}  # the last line of each log: within a file they are in order
    for path in sorted(folder.glob(FILES)):
        if path.name[:10] < since.astimezone(UTC).date().isoformat():
            continue
        with open(path, "rb") as stream:
            for place, text in enumerate(stream, start=1):
                if not text.endswith(b"\n"):
                    break
                try:
                    row = Served.model_validate_json(text)
                except ValidationError as error:
                    (first, *_) = error.errors()
                    raise BadInput(path, first["msg"], place, ".".join(map(str, first["loc"])) or None) from error
                if row.number > read.get(row.log, -1):
                    read[row.log] = row.number
                    if row.time >= since:
                        yield row
