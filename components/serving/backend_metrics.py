"""Figures of the backend on Triton's own /metrics, beside Triton's: requests by outcome, scores, frames, lost log lines.

Each series has a label `process` that no other process ever has. Two of the same labels in one server, as of two loaded
versions or of one that was loaded again, would share a counter. It is freed with the first of them, and the next count
ends the server (https://github.com/triton-inference-server/server/issues/8663).
"""

import os
import secrets
from types import ModuleType
from typing import Any

from components.reward.score import OVERALL, RewardModel, score_names

REQUESTS, SCORES = "reelign_requests_total", "reelign_score"
FRAMES, LOST = "reelign_frames_total", "reelign_served_log_lost_total"
MOST_OBSERVED = 4  # requests of a batch whose scores are counted: each is a message to the server and back; the log has all
# Of normalised scores: 0 is the mean of the validation clips, 1 their standard deviation.
BUCKETS = [-6.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


class Metrics:
    """api: triton_python_backend_utils, which is there only inside Triton."""

    def __init__(self, api: ModuleType, version: str, model: RewardModel):
        labels = {
            "version": version,
            "model_version": model.version,
            "process": f"{os.getpid()}-{secrets.token_hex(4)}",
        }
        self.plan = model.plan

        def family(name: str, help: str, kind: Any) -> Any:
            return api.MetricFamily(name=name, description=help, kind=kind)

        counter, histogram = api.MetricFamily.COUNTER, api.MetricFamily.HISTOGRAM
        requests = family(REQUESTS, "Requests of clients, by outcome", counter)
        frames = family(FRAMES, "Frames that scores were made of, by what was sent", counter)
        lost = family(LOST, "Lines of the log of served requests that could not be written", counter)
        scores = family(SCORES, "Normalised scores, by dimension, of at most 4 requests a batch", histogram)
        self.families = [requests, frames, lost, scores]
        self.requests = {name: requests.Metric(labels=labels | {"outcome": name}) for name in ("scored", "refused")}
        self.frames = {name: frames.Metric(labels=labels | {"video": name}) for name in ("frames", "file")}
        self.lost = lost.Metric(labels=labels)
        names = score_names(model.dimensions)
        self.scores = {name: scores.Metric(labels=labels | {"dimension": name}, buckets=BUCKETS) for name in names}

    def count(self, lines: list[dict[str, Any]], lost: int) -> None:
        """Lines of a batch as served_log.describe makes them, and how many of them the log lost."""
        scored = [line for line in lines if line["reason"] is None]
        increment(self.requests["scored"], len(scored))
        increment(self.requests["refused"], len(lines) - len(scored))
        increment(self.lost, lost)
        for kind, metric in self.frames.items():
            used = [self.plan.indices(line["frames"], line["fps"]) for line in scored if line["video"] == kind]
            increment(metric, sum(map(len, used)))
        for line in scored[:: max(1, -(-len(scored) // MOST_OBSERVED))]:
            for name, value in {**line["normalised"], OVERALL: line["overall"]}.items():
                self.scores[name].observe(value)

    def close(self) -> None:
        """Give all back while the process can still say so to the server: metrics first, then their families."""
        del self.requests, self.frames, self.lost, self.scores
        del self.families


def increment(metric: Any, by: int) -> None:
    """Says nothing where there is nothing to say: each call is a message to the server and back."""
    if by:
        metric.increment(by)
