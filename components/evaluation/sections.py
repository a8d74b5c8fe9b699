"""Sections of the report that are read from files of other stages. An absent file is reported as absent."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from components.evaluation.charts import curve, front, interval_strip
from components.evaluation.names import BY_JUDGE, METHOD_NAMES, in_order
from components.evaluation.previews import data_uri, is_shrunk
from components.evaluation.win_rates import DIMENSIONS, Interval
from components.tables import read_table
from components.text_files import read_json

# The curves shown: the loss, and metrics that show directly whether training works.
CURVES = ("loss", "accuracy", "margin")
SETTING_KINDS = {
    "best": "best_of_n",
    "guidance": "base",
}  # of the trade-off, by a name's first word; the others are Flow-NRG
COUNTS = ("videos", "prompts", "pairs", "annotations", "duplicate_rows_dropped", "objects")
TRAINING = {
    "video_reward": "models/video_reward/training.csv",
    "sft": "models/aligned/sft/training.csv",
    "rwr": "models/aligned/rwr/training.csv",
    "dpo": "models/aligned/dpo/training.csv",
    "latent_reward": "models/latent_reward/training.csv",
}


def estimate(found: dict) -> Interval | None:
    """An estimate of a metrics file; None for one over no pairs (value null). `prompts` is set where there is no interval,
    and 0 elsewhere."""
    if found["value"] is None:
        return None
    return Interval(found["value"], *(found["ci95"] or (None, None)), n=found["n"], prompts=found.get("prompts", 0))


@dataclass(frozen=True)
class Score:
    """One line under a clip."""

    judge: str
    dimension: str
    text: str
    change: str | None = None  # "up" or "down" against base, None for a tie or base itself

    @property
    def title(self) -> str:
        return f"{self.dimension} by {BY_JUDGE[self.judge]}"


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


def duels(root: Path) -> list[dict]:
    """Winners and losers of the preference pairs that `relabel` copied to data/duels."""
    folder = root / "data/duels"
    if not folder.exists():
        return []
    shown = []
    for pair in read_table(folder / "duels.parquet"):
        sides = {
            side: film(
                folder / pair[f"{side}_path"],
                pair["prompt"],
                [Score("reward", "Reward", minus(f"{pair[f'{side}_reward']:.2f}"))],
            )
            for side in ("chosen", "rejected")
        }
        shown.append({"prompt": pair["prompt"], "margin": pair["margin"], **sides})
    return shown


def bench(root: Path) -> dict | None:
    """Table of metrics/reward_bench.json."""
    file = root / "metrics/reward_bench.json"
    if not file.exists():
        return None
    metrics = read_json(file)
    rows = []
    for dimension in [name for name in DIMENSIONS if name in metrics["dimensions"]]:
        entry = metrics["dimensions"][dimension]
        without, with_ties = (estimate(entry[f"accuracy_{kind}_ties"]) for kind in ("without", "with"))
        marks = [("base", "without ties", without), ("base second", "with ties", with_ties)]
        marks = [mark for mark in marks if mark[2] is not None]
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
    file, table = root / "metrics/tradeoff.json", root / "data/tradeoff.parquet"
    if not (file.exists() and table.exists()):
        return None
    metrics = read_json(file)
    names = dict.fromkeys(row["setting"] for row in read_table(table) if row["setting"] != "plain")
    rows, judge = [], "gold"
    for number, name in enumerate(names, start=1):
        entry = metrics["settings"][name]
        judge = "gold" if "gold" in entry["win_rate"] else "reward"
        found = {d: estimate(entry["win_rate"][judge][d]) for d in DIMENSIONS}
        rows.append(
            {
                "number": number,
                "name": name,
                "kind": next((kind for word, kind in SETTING_KINDS.items() if name.startswith(word)), "nrg"),
                "found": list(found.values()),
                "reward": [estimate(entry["win_rate"]["reward"][d]) for d in DIMENSIONS] if judge == "gold" else None,
            }
        )
    points = [(row["kind"], str(row["number"]), row["found"][0], row["found"][2]) for row in rows]
    names = "the gold judge" if judge == "gold" else "VideoReward"
    return {
        "front": front(points, ("VQ", "TA")),
        "rows": rows,
        "note": f"{metrics['clips']} clips of {metrics['prompts']} prompts with each setting, from base's noise, against"
        f" plain sampling by {names}. Weights are VQ:MQ:TA. The time of a setting depends on the machine: make summary"
        " prints it where the clips were sampled, MLflow has it in the run of stage tradeoff.",
    }


def labels(root: Path) -> tuple[list[dict], list[str]]:
    """Tables on the labels' realism, and the files that are absent."""
    tables, absent = [], []
    file = root / "metrics/pairs.json"
    if file.exists():
        tables.append(_pairs_table(read_json(file)))
    else:
        absent.append("metrics/pairs.json is absent, so tie shares and agreement are unknown")
    file = root / "metrics/source.json"
    if file.exists():
        tables += _source_tables(read_json(file))
    else:
        absent.append("metrics/source.json is absent")
    return tables, absent


def _source_tables(metrics: dict) -> list[dict]:
    """Origin of the labels: realism of simulated ones and the compared generators, or counts of an imported source."""
    file = "metrics/source.json"
    if metrics["kind"] != "shapes":
        counts = [[key.replace("_", " "), str(value)] for key, value in metrics.items() if key in COUNTS]
        return [{"caption": f"Imported from a {metrics['kind']} source.", "file": file, "columns": ["", ""], "rows": counts}]
    human = [
        [name, *(number(found[key]) for key in ("agreement", "alpha", "tie_share"))]
        for name, found in in_order(metrics["realism"], DIMENSIONS)
    ]
    zoo = sorted(metrics["gold_means"].items(), key=lambda item: -item[1]["Overall"])
    caption = f"{metrics['pairs']} simulated pairs of {metrics['videos']} clips, {metrics['prompts']} prompts."
    return [
        {
            "caption": f"{caption} One annotator against the gold judge; alpha is Krippendorff's, nominal.",
            "file": file,
            "columns": ["Score", "Agreement", "Alpha", "Ties"],
            "rows": human,
        },
        {
            "caption": "Mean gold scores of the generators whose clips were compared, best first.",
            "file": file,
            "columns": ["Generator", *DIMENSIONS],
            "rows": [[name, *(number(found[d]) for d in DIMENSIONS)] for name, found in zoo],
        },
    ]


def _pairs_table(metrics: dict) -> dict:
    alpha = metrics["krippendorff_alpha"] or {}
    rows = []
    for dimension, found in in_order(metrics["dimensions"], DIMENSIONS):
        agreed = alpha.get(dimension, {}).get("ordinal")
        cells = [found["labelled"], found["tie_share"], found["A_share"], agreed]
        rows.append([dimension, *("–" if cell is None else number(cell) for cell in cells)])
    return {
        "caption": f"{metrics['pairs']} labelled pairs of {metrics['prompts']} prompts; alpha is Krippendorff's.",
        "file": "metrics/pairs.json",
        "columns": ["Score", "Labels", "Ties", "A of decided", "Alpha"],
        "rows": rows,
    }


def minus(text: str) -> str:
    """Replace hyphens by typographic minus signs."""
    return text.replace("-", "\N{MINUS SIGN}")


def number(value: object) -> str:
    """A number as a table cell."""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def curves(root: Path) -> tuple[list[dict], list[str]]:
    """Training curves of every model with a log, and the files that are absent."""
    models, absent = [], []
    for name, file in TRAINING.items():
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
        title = METHOD_NAMES.get(name, name.replace("_", " ").capitalize())
        models.append({"name": title, "kind": name, "file": file, "lines": lines})
    return models, absent
