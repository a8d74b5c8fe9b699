"""Have served scores drifted? Those of the last hours beside the scores of the validation clips that fixed the model's
normalisation (`reference` in video_reward.json, made by stage `reward`).

Other scores than those mean other clips or prompts than the model was measured on: its scores of them are less sure. Drift
is a Kolmogorov-Smirnov distance, the largest difference of the two distribution functions, that is both large and
significant. With many requests the smallest difference is significant. Each request counts as a clip of its own: where
clients send the same ones over and over, only the distance has a meaning.
"""

import re
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np

from components.config.operation import MonitoringParams
from components.errors import BadInput
from components.pipeline.stage import folder_digest
from components.reward.card import CARD, STEPS, Reference, read_card
from components.serving.served_log import read_served
from components.statistics.significance import correct_family

OVERALL = "Overall"  # of components/reward/score.py, whose import takes seconds
QUARTILES = (0.25, 0.5, 0.75)
CLOCKS_APART = timedelta(minutes=5)  # of the machines that serve and that look
INPUTS = ("frames", "height", "width", "fps", "words")


@dataclass
class Found:
    """The log's entries of one model version; `scores` and `inputs` by name, of scored requests."""

    scores: dict[str, array] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    inputs: dict[str, array] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    videos: Counter[str | None] = field(default_factory=Counter)
    prompts: set[str | None] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)  # requests by the version that answered them
    future: int = 0  # lines of a clock that was ahead

    @property
    def clips(self) -> int:
        return self.videos.total()


def read_reference(model: Path) -> Reference:
    """In the order of the dimensions, as JSON of models is sorted; BadInput where the model has none."""
    card = read_card(model)
    reference = card.reference
    if reference is None:
        why = "none: this model was trained before scores were monitored; stage `reward` makes it"
        raise BadInput(model / CARD, why, key="reference")
    order = list(dict.fromkeys([*card.dimensions, OVERALL]))
    if reference.quantiles.keys() != set(order):
        raise BadInput(
            model / CARD, f"has {', '.join(reference.quantiles)}, not {', '.join(order)}", key="reference.quantiles"
        )
    return reference.model_copy(update={"quantiles": {name: reference.quantiles[name] for name in order}})


def collect(served: Path, version: str, names: list[str], since: datetime, until: datetime) -> Found:
    """Go through the log; `names` are of all scores, Overall among them."""
    found = Found()
    for row in read_served(served, since):
        if row.time > until + CLOCKS_APART:
            found.future += 1
        elif row.model_version != version:
            found.others[row.model_version] += 1
        elif row.normalised is None or row.overall is None:
            # Numbers are of the one request: "5 frames; the plan has 8".
            found.refused[re.sub(r"\d+(\.\d+)?", "N", row.reason or "")] += 1
        else:
            scores = {**row.normalised, OVERALL: row.overall}
            if scores.keys() != set(names):
                why = f"has scores of {', '.join(scores)}, the model's reference of {', '.join(names)}"
                raise BadInput(served / f"{row.log}.jsonl", why, row.number + 1, "normalised")
            for name in names:
                found.scores[name].append(scores[name])
            for name in INPUTS:
                found.inputs[name].append(getattr(row, name))
            found.videos[row.video] += 1
            found.prompts.add(row.prompt)
    return found


def monitor(served: Path, model: Path, params: MonitoringParams, now: datetime) -> tuple[dict[str, Any], Found, Reference]:
    """The record: what was served within the window before `now`, and whether it has drifted."""
    reference, version = read_reference(model), folder_digest(model)
    since = now - timedelta(hours=params.window)
    found = collect(served, version, [*reference.quantiles], since, now)
    enough = found.clips >= params.min_clips
    refused = found.refused.total()
    answered = found.clips + refused
    failing = answered >= params.min_clips and refused > params.max_refused * answered
    cells = {}
    for name, scores in found.scores.items():
        quantiles = np.array(reference.quantiles[name])
        distance = ks_distance(np.array(scores), quantiles)
        cells[name] = {
            "served": np.quantile(scores, QUARTILES).tolist(),
            "reference": quantiles[[round(STEPS * share) for share in QUARTILES]].tolist(),
            "distance": distance,
            "p": ks_p(distance, found.clips, reference.clips),
        }
    correct_family([*cells.values()])
    for cell in cells.values():
        cell["drift"] = enough and cell["distance"] > params.max_distance and cell["p_holm"] <= params.level
    drifted = [name for name, cell in cells.items() if cell["drift"]]
    record = {
        "model": str(model),
        "model_version": version,
        "since": since.isoformat(),
        "until": now.isoformat(),
        "monitoring": params.model_dump(),
        "clips": found.clips,
        "reference_clips": reference.clips,
        "scores": cells,
        # Of what little was scored then, drift would say nothing of the clients' clips.
        "verdict": "refused" if failing else "drift" if drifted else "no drift" if enough else "too few",
        "drifted": drifted,
        "refused": dict(found.refused),
        "other_versions": dict(found.others),
        "from_the_future": found.future,
        "inputs": {name: np.quantile(values, QUARTILES).tolist() for name, values in found.inputs.items()},
        "videos": dict(found.videos),
        "prompts": len(found.prompts),
    }
    return record, found, reference


def ks_distance(served: np.ndarray, quantiles: np.ndarray) -> float:
    """Largest difference of two distribution functions: of the served scores [N], which rises in steps, and of the reference
    [101], a line between its quantiles, upright where several of them are one value."""
    served = np.sort(served)
    places = np.concatenate([served, quantiles])
    worst = 0.0
    for side in ("left", "right"):  # just before each place and at it
        ours = np.searchsorted(served, places, side) / len(served)
        worst = max(worst, float(np.abs(ours - reference_share(quantiles, places, side)).max()))
    return worst


def reference_share(quantiles: np.ndarray, places: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
    """Share of the reference up to each place ("right"), or below it ("left")."""
    before = np.searchsorted(quantiles, places, side)  # quantiles up to the place, or below it
    low, high = (np.clip(before + step, 0, STEPS) for step in (-1, 0))
    gap = quantiles[high] - quantiles[low]
    part = np.divide(places - quantiles[low], gap, out=np.zeros(len(places)), where=gap > 0)
    return np.where(before == 0, 0.0, (low + part) / STEPS)


def ks_p(distance: float, served: int, reference: int) -> float:
    """Chance of such a distance between two samples of these sizes from one distribution: the two-sample form with its
    effective size, as scipy.stats.ks_2samp has it for large samples. The reference is a sample too, if a smoothed one."""
    from scipy.stats import kstwo

    return float(np.clip(kstwo.sf(distance, max(1, round(served * reference / (served + reference)))), 0, 1))


def as_lines(record: dict[str, Any]) -> list[str]:
    """The record for a terminal."""
    hours, least = record["monitoring"]["window"], record["monitoring"]["min_clips"]
    lines = [
        f"model {record['model_version']}: {record['clips']} clips scored in {hours:g} h, beside "
        f"{record['reference_clips']} validation clips"
    ]
    if record["scores"]:
        heads = ("", "served (quartiles)", "reference", "distance", "p (Holm)", "")
        lines.append("{:8}  {:26}  {:26}  {:>8}  {:>8}  {}".format(*heads).rstrip())
    for name, cell in record["scores"].items():
        served, reference = (
            f"{middle:+.3f} ({low:+.3f} to {high:+.3f})" for low, middle, high in (cell["served"], cell["reference"])
        )
        cells = (name, served, reference, cell["distance"], cell["p_holm"], "drift" if cell["drift"] else "")
        lines.append("{:8}  {:26}  {:26}  {:8.3f}  {:8.2g}  {}".format(*cells).rstrip())
    if record["clips"]:
        sent = ", ".join(f"{count} as {kind}" for kind, count in sorted(record["videos"].items()))
        lines.append(f"inputs: {sent}; {record['prompts']} distinct prompts; medians and quartiles:")
        lines += [f"  {name:6}  {m:g} ({low:g} to {high:g})" for name, (low, m, high) in record["inputs"].items()]
    lines += [f"refused: {count} x {reason}" for reason, count in most_first(record["refused"])]
    lines += [f"not looked at: {count} of model {name}" for name, count in most_first(record["other_versions"])]
    if record["from_the_future"]:
        lines.append(f"not looked at: {record['from_the_future']} from the future: a clock was ahead")
    refused = sum(record["refused"].values())
    told = {
        "refused": f"most requests are refused: {refused} of {refused + record['clips']}",
        "drift": f"drift of {', '.join(record['drifted'])}",
        "no drift": "no drift",
        "too few": f"too few to tell: {record['clips']} clips, at least {least} are wanted",
    }
    return [*lines, told[record["verdict"]]]


def most_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def draw(found: Found, reference: Reference, file: Path) -> None:
    """Both distribution functions of each dimension, side by side."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    names = [*reference.quantiles]
    figure, axes = plt.subplots(1, len(names), figsize=(3.2 * len(names), 3), sharey=True, squeeze=False)
    for name, axis in zip(names, axes[0], strict=True):
        axis.plot(reference.quantiles[name], np.linspace(0, 1, STEPS + 1), color="0.5", label="reference")
        if found.scores[name]:
            axis.ecdf(found.scores[name], label="served")
        axis.set(title=name, xlabel="normalised score")
    axes[0][0].set(ylabel="share up to it")
    axes[0][0].legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(figure)
