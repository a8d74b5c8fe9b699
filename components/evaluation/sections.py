"""Sections of the report that are read from files of other stages. An absent file is reported as absent."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from components.contracts import (
    DIMENSIONS,
    EXAMPLE_PAIRS,
    REWARD_METRICS,
    TRADEOFF,
    TRADEOFF_METRICS,
)
from components.evaluation.charts import curve, front, interval_strip
from components.evaluation.names import REWARD, by_judge, in_order, judges_of
from components.evaluation.previews import data_uri, is_shrunk
from components.evaluation.win_rates import Interval
from components.files.tables import read_table
from components.files.text import read_json
from components.methods import METHODS, trained

# The curves shown: the loss, and metrics that show directly whether training works.
CURVES = ("loss", "accuracy", "margin")
SETTING_KINDS = {
    "best": "best_of_n",
    "guidance": "base",
}  # of the trade-off, by a name's first word; the others are Flow-NRG


def estimate(found: dict) -> Interval | None:
    """An estimate of a metrics file; None for one over no pairs (value null)."""
    return None if found["value"] is None else measured(found)


def measured(found: dict) -> Interval:
    """An estimate of a metrics file, over a pair at least. `prompts` is set where there is no interval, and 0 elsewhere."""
    return Interval(found["value"], *(found["ci95"] or (None, None)), n=found["n"], prompts=found.get("prompts", 0))


@dataclass(frozen=True)
class Score:
    """One line under a clip."""

    key: str  # of the judge
    judge: str  # CSS class of its figures
    dimension: str
    text: str
    change: str | None = None  # "up" or "down" against base, None for a tie or base itself


def film(path: str | Path, prompt: str, scores: list[Score], right: bool | None = None, **more) -> dict:
    """The argument of the template's macro `film`."""
    from components.video.decode import probe

    info = probe(path)
    return {
        "src": data_uri(path, info),
        "shrunk": is_shrunk(path),
        "width": info.width,
        "height": info.height,
        "prompt": prompt,
        "scores": scores,
        "right": right,
        **more,
    }


def example_pairs(root: Path) -> list[dict]:
    """Winners and losers of the preference pairs that `relabel` copied to data/example_pairs."""
    folder = root / EXAMPLE_PAIRS
    if not folder.exists():
        return []
    shown = []
    for pair in read_table(folder / "example_pairs.parquet"):
        sides = {
            side: film(
                folder / pair[f"{side}_path"],
                pair["prompt"],
                [Score(REWARD, REWARD, "Reward", minus(f"{pair[f'{side}_reward']:.2f}"))],
            )
            for side in ("chosen", "rejected")
        }
        shown.append({"prompt": pair["prompt"], "margin": pair["margin"], **sides})
    return shown


def bench(root: Path) -> dict | None:
    """Table of metrics/reward_bench.json."""
    file = root / REWARD_METRICS
    if not file.exists():
        return None
    metrics = read_json(file)
    rows = []
    for dimension in [name for name in DIMENSIONS if name in metrics["dimensions"]]:
        entry = metrics["dimensions"][dimension]
        without, with_ties = (estimate(entry[f"accuracy_{kind}_ties"]) for kind in ("without", "with"))
        marks = [("base", "without ties", without), ("base second", "with ties", with_ties)]
        marks = [(kind, label, found) for kind, label, found in marks if found is not None]
        rows.append({"dimension": dimension, "without": without, "with_ties": with_ties, "strip": interval_strip(marks)})
    sources = sorted({metrics["dimensions"][row["dimension"]]["accuracy_with_ties"]["threshold_from"] for row in rows})
    note = (
        "● Without ties: the share of decided pairs that the model ranks as the annotators did; chance is 50%."
        " ○ With ties: all pairs, three classes, a small difference of scores counts as a tie; the threshold is"
        f" fitted on {' and '.join(sources)}."
    )
    blind = {
        name: max(found.values())
        for name, found in in_order(metrics.get("baselines", {}), DIMENSIONS)
        if None not in found.values()
    }
    if blind:
        note += f" With ties, the best trivial baseline gets {', '.join(f'{k} {100 * v:.0f}%' for k, v in blind.items())}."
    return {"pairs": metrics["pairs"], "prompts": metrics["prompts"], "rows": rows, "note": note}


def tradeoff(root: Path) -> dict | None:
    """Settings of guidance and best of N, from metrics/tradeoff.json in the order of data/tradeoff.parquet. Times are left
    out: they differ between machines, and the same inputs must give the same page."""
    file, table = root / TRADEOFF_METRICS, root / TRADEOFF
    if not (file.exists() and table.exists()):
        return None
    metrics = read_json(file)
    names = dict.fromkeys(row["setting"] for row in read_table(table) if row["setting"] != "plain")
    rows, judges = [], judges_of(metrics)
    judge = next(one for one in judges if all(one in entry["win_rate"] for entry in metrics["settings"].values()))
    for number, name in enumerate(names, start=1):
        entry = metrics["settings"][name]
        rates = entry["win_rate"]
        found = {d: cell and estimate(cell) for d in DIMENSIONS for cell in [rates[judge].get(d)]}
        rows.append(
            {
                "number": number,
                "name": name,
                "kind": next((kind for word, kind in SETTING_KINDS.items() if name.startswith(word)), "nrg"),
                "found": list(found.values()),
                "reward": [estimate(rates[REWARD][d]) for d in DIMENSIONS] if judge != REWARD else None,
            }
        )
    points = [(row["kind"], str(row["number"]), row["found"][0], row["found"][2]) for row in rows]
    points = [point for point in points if None not in point]  # a judge may have Overall alone
    names = by_judge(metrics, judge)
    return {
        "front": front(points, ("VQ", "TA")),
        "rows": rows,
        "note": f"{metrics['clips']} clips of {metrics['prompts']} prompts with each setting, from base's noise, against"
        f" plain sampling by {names}. Weights are VQ:MQ:TA. The time of a setting depends on the machine: make summary"
        " prints it where the clips were sampled, MLflow has it in the run of stage tradeoff.",
    }


def minus(text: str) -> str:
    """Replace hyphens by typographic minus signs."""
    return text.replace("-", "\N{MINUS SIGN}")


def curves(root: Path) -> tuple[list[dict], list[str]]:
    """Training curves of every model with a log, and the files that are absent."""
    models, absent = [], []
    folders = {name: METHODS[name].lora for name in trained()}
    folders = {"video_reward": "models/video_reward", **folders, "latent_reward": "models/latent_reward"}
    for name, folder in folders.items():
        file = f"{folder}/training.csv"
        if not (root / file).exists():
            absent.append(f"{file} is absent")
            continue
        with open(root / file, newline="") as stream:
            rows = list(csv.DictReader(stream))
        steps = [float(row["step"]) for row in rows]
        chosen = [key for key in rows[0] if any(word in key for word in CURVES)] if rows else []
        lines = []
        for key in chosen:
            values = [float(row[key]) if row[key] else math.nan for row in rows]
            known = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
            if not known:
                continue
            first, (step, last) = known[0][1], known[-1]
            words = key.replace("_", " ").replace("/", ", ")
            # A single point is no curve: only its value is shown.
            svg = curve(steps, values, words) if len(known) > 1 else None
            lines.append({"name": words, "svg": svg, "first": first, "last": last, "step": f"{step:g}"})
        title = METHODS[name].title if name in METHODS else name.replace("_", " ").capitalize()
        models.append({"name": title, "kind": name, "file": file, "lines": lines})
    return models, absent
