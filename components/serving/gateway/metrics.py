"""Figures of the gateway in Prometheus' text format."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator

TEXT = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # seconds
PREFIX = "reelign_gateway"


class Metrics:
    """Counts since the start. Labels come from fixed lists, so that callers cannot add series."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # route, HTTP status
        self.videos: Counter[tuple[str, str]] = Counter()  # route, outcome
        self.seconds: dict[str, list[int]] = defaultdict(lambda: [0] * (len(BUCKETS) + 1))  # route: requests by bucket
        self.total: defaultdict[str, float] = defaultdict(float)  # route: seconds of all
        self.bytes = 0  # of bodies
        self.held = 0  # requests under way

    def count(self, route: str, status: int, seconds: float) -> None:
        self.requests[route, status] += 1
        self.seconds[route][bisect_left(BUCKETS, seconds)] += 1
        self.total[route] += seconds

    def text(self) -> str:
        return "\n".join([*self._lines(), ""])

    def _lines(self) -> Iterator[str]:
        yield from head("requests_total", "counter", "Requests by route and HTTP status.")
        for (route, status), count in sorted(self.requests.items()):
            yield f'{PREFIX}_requests_total{{route="{route}",status="{status}"}} {count}'
        yield from head("videos_total", "counter", "Videos by route and outcome: scored, refused, unanswered.")
        for (route, outcome), count in sorted(self.videos.items()):
            yield f'{PREFIX}_videos_total{{route="{route}",outcome="{outcome}"}} {count}'
        yield from head("request_seconds", "histogram", "Seconds of a request, its body included.")
        for route, counts in sorted(self.seconds.items()):
            below = 0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
                below += count
                yield f'{PREFIX}_request_seconds_bucket{{route="{route}",le="{bound}"}} {below}'
            yield f'{PREFIX}_request_seconds_sum{{route="{route}"}} {self.total[route]}'
            yield f'{PREFIX}_request_seconds_count{{route="{route}"}} {below}'
        yield from head("body_bytes_total", "counter", "Bytes of bodies that were read.")
        yield f"{PREFIX}_body_bytes_total {self.bytes}"
        yield from head("requests_held", "gauge", "Requests under way.")
        yield f"{PREFIX}_requests_held {self.held}"


def head(name: str, kind: str, meaning: str) -> list[str]:
    return [f"# HELP {PREFIX}_{name} {meaning}", f"# TYPE {PREFIX}_{name} {kind}"]
