"""Figures of the gateway in Prometheus' text format, and those of the last `reelign monitor`."""

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

TEXT = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # seconds
PREFIX, MONITOR = "reelign_gateway", "reelign_monitor"
VERDICTS = ("no drift", "drift", "too few", "refused")  # of components/serving/monitor.py


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


def of_monitor(file: Path) -> str:
    """The record of the last check for drift; nothing where there is none, or where it cannot be read."""
    try:
        record = json.loads(file.read_text())
        until, verdict = datetime.fromisoformat(record["until"]).timestamp(), record["verdict"]
        cells = {name: (float(cell["distance"]), int(cell["drift"])) for name, cell in record["scores"].items()}
        clips = int(record["clips"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""
    lines = head("time_seconds", "gauge", "End of the checked window, in seconds since 1970.", MONITOR)
    lines += [f"{MONITOR}_time_seconds {until}"]
    lines += [*head("clips", "gauge", "Clips scored in the window.", MONITOR), f"{MONITOR}_clips {clips}"]
    lines += head("verdict", "gauge", "1 for the verdict of the check.", MONITOR)
    lines += [f'{MONITOR}_verdict{{verdict="{each}"}} {int(each == verdict)}' for each in VERDICTS]
    lines += head("distance", "gauge", "Kolmogorov-Smirnov distance of served scores, by dimension.", MONITOR)
    lines += [f'{MONITOR}_distance{{dimension="{name}"}} {distance}' for name, (distance, _) in sorted(cells.items())]
    lines += head("drift", "gauge", "1 where a dimension has drifted.", MONITOR)
    lines += [f'{MONITOR}_drift{{dimension="{name}"}} {drift}' for name, (_, drift) in sorted(cells.items())]
    return "\n".join([*lines, ""])


def head(name: str, kind: str, meaning: str, prefix: str = PREFIX) -> list[str]:
    return [f"# HELP {prefix}_{name} {meaning}", f"# TYPE {prefix}_{name} {kind}"]
