"""A reward model against people's labels of pairs: `reelign bench-reward CSV --videos DIR`.

Which files are read, and by which protocol, stands in components/reward/layouts.py.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from components.errors import BadInput
from components.preferences.schema import LABEL_TEXT
from components.reward.figures import figures
from components.reward.layouts import Item, Labelled, refuse
from components.reward.pairs import NO_LABEL
from components.reward.score import OVERALL, Score, Unscored
from components.reward.score_files import ModelFiles
from components.reward.score_rows import MADE_BY, score_in, score_rows
from components.stage import folder_digest


def check_videos(pairs: Labelled, videos: Path) -> None:
    """BadInput where a video is not there, before hours go into the others."""
    refuse(pairs, {item: f"{videos / item[0]}: no such file" for item in pairs.items() if not (videos / item[0]).is_file()})


def read_scores(file: Path) -> dict[Item, Score | Unscored]:
    """Scores of a table that `reelign score --out` wrote (.parquet or .csv), by absolute path and prompt.

    BadInput names a score that is no finite number, a video with two scores for one prompt, and a row of another model or
    of other frames than the first: scores of two models are not compared.
    """
    found: dict[Item, Score | Unscored] = {}
    rows: dict[Item, int] = {}
    first: tuple[int, Score] | None = None
    for row, cells in score_rows(file):
        item = os.path.abspath(cells["path"]), cells["prompt"]
        score: Score | Unscored = Unscored(f"failed in {file}, row {row}: {cells['reason']}")
        if cells["status"] == "ok":
            score = _score(file, row, cells)
            first = first or (row, score)
            for key, name in (("reward_model", "model_version"), ("frame_plan", "frame_plan")):
                was, now = getattr(first[1], name), getattr(score, name)
                if now != was:
                    raise BadInput(file, f"'{now}', but '{was}' in row {first[0]}", row=row, key=key)
        earlier = found.setdefault(item, score)
        if Score in (type(earlier), type(score)) and earlier != score:
            raise BadInput(file, f"has another score for this prompt in row {rows[item]}", row=row, key="path")
        rows.setdefault(item, row)
    if first is None:
        raise BadInput(file, "no row has a score")
    return found


def _score(file: Path, row: int, cells: dict[str, Any]) -> Score:
    dimensions = [name.removeprefix("raw_") for name in cells if name.startswith("raw_")]
    for column in (OVERALL, "reward_model", "frame_plan", *dimensions):
        if column not in cells:
            raise BadInput(file, f"missing column; {MADE_BY}", key=column)
    return Score(
        raw={name: score_in(file, row, cells, f"raw_{name}") for name in dimensions},
        normalised={name: score_in(file, row, cells, name) for name in dimensions},
        overall=score_in(file, row, cells, OVERALL),
        model_version=cells["reward_model"],
        frame_plan=cells["frame_plan"],
    )


def find_scores(
    pairs: Labelled, table: Path, known: Mapping[Item, Score | Unscored], videos: Path | None
) -> dict[Item, Score | Unscored]:
    """The score of each of the pairs' videos from `known`, which `table` holds: its path there is that of the file below
    `videos`, or the one of the CSV. BadInput names a pair whose video is not in it with the pair's prompt."""
    found: dict[Item, Score | Unscored] = {}
    for path, prompt in pairs.items():
        for place in (path,) if videos is None else (videos / path, path):
            score = known.get((os.path.abspath(place), prompt))
            if score is not None:
                found.setdefault((path, prompt), score)
    absent = [item for item in pairs.items() if item not in found]
    refuse(pairs, {item: f"{item[0]} has no row with this prompt in {table}" for item in absent})
    return found


def pair_table(pairs: Labelled, scores: Mapping[Item, Score | Unscored]) -> pd.DataFrame:
    """A row a pair: row, prompt, paths, models, and for each question its label and the scores of A and B. BadInput names
    the line whose video could not be scored."""
    refuse(pairs, {item: score.reason for item, score in scores.items() if isinstance(score, Unscored)})
    values = {item: {**score.normalised, OVERALL: score.overall} for item, score in scores.items()}
    table = pd.DataFrame({"row": pairs.rows, "prompt": pairs.prompts})
    for side, name in enumerate("AB"):
        table[f"path_{name}"], table[f"model_{name}"] = pairs.paths[side], pairs.models[side]
    for question, column in pairs.score_of.items():
        labels = pairs.labels[question]
        table[f"{question}_label"] = pd.Series(labels, dtype="Int64").mask(labels == NO_LABEL)
        for paths, name in zip(pairs.paths, "AB", strict=True):
            items = zip(paths, pairs.prompts, strict=True)
            table[f"{question}_score_{name}"] = [values[item][column] for item in items]
    return table


def evaluate(
    pairs: Labelled, scores: Mapping[Item, Score | Unscored], model: ModelFiles, threshold_from: str, rounds: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of the pairs, and what figures.json says: figures, protocol, model, and digest of the pairs' file. Of
    `model` no more is read than its tie thresholds, where these are asked for."""
    table = pair_table(pairs, scores)
    one = next(iter(scores.values()))
    thresholds = tie_thresholds(pairs, model, one.model_version, threshold_from)
    found = figures(table, list(pairs.score_of), thresholds, threshold_from, rounds)
    found["protocol"] = protocol(pairs, threshold_from, thresholds)
    origin = {"model_version": one.model_version, "frame_plan": one.frame_plan}
    return table, found | origin | {"csv": str(pairs.file), "csv_digest": folder_digest(pairs.file)}


def tie_thresholds(pairs: Labelled, model: ModelFiles, version: str, threshold_from: str) -> dict[str, float | None]:
    """The model's own threshold by question, or none where they are fitted on the pairs. BadInput where the scores are of
    another model."""
    if threshold_from == "test":
        return {}
    if model.version() != version:
        why = f"is model {model.version()}, and the scores are of {version}: its tie thresholds are not theirs"
        raise BadInput(model.folder, f"{why} (--model, or --threshold-from test)")
    own = model.facts()["tie_thresholds"]
    return {question: own.get(column) for question, column in pairs.score_of.items()}


def protocol(pairs: Labelled, threshold_from: str, thresholds: Mapping[str, float | None]) -> dict[str, Any]:
    """How the figures were made, in words and counts: which score answered which label, how labels were read, where the
    thresholds are from."""
    source = "fitted on these very pairs, as leaderboards do: an upper bound"
    if threshold_from == "validation":
        source = "the model's own, fitted on its validation pairs"
        if absent := [question for question in pairs.score_of if thresholds.get(question) is None]:
            source += f"; it has none for {', '.join(absent)} (--threshold-from test fits them here)"
    return {
        "layout": pairs.layout.name,
        "published_pairs": pairs.layout.published,
        "answered_by": pairs.score_of,
        "answered_by_in_paper": pairs.layout.answer if pairs.layout.published else None,
        "labels_read_as": {text: LABEL_TEXT[value] for text, value in pairs.layout.votes.items()},
        "labels": pairs.votes,
        "repeated_rows": pairs.repeats,
        "without_ties": "pairs labelled A or B; equal scores are wrong",
        "with_ties": "A, B and same; same is said of scores that differ by the tie threshold or less",
        "tie_threshold": source,
    }


def as_lines(found: dict[str, Any], pairs: int) -> list[str]:
    """The protocol for a terminal."""
    published = f" (the published set has {found['published_pairs']})" if found["published_pairs"] else ""
    read = ", ".join(f"{text} is {value}" for text, value in found["labels_read_as"].items() if text != value)
    answers = [f"{question} by {score}" for question, score in found["answered_by"].items() if question != score]
    paper = f" (in the paper by {found['answered_by_in_paper']})" if found["answered_by_in_paper"] else ""
    repeats = f" ({found['repeated_rows']} rows repeat an earlier one and do not count)" if found["repeated_rows"] else ""
    return [
        f"{found['layout']}'s columns: {pairs} pairs{repeats}{published}{'; ' + read if read else ''}",
        f"answered: {', '.join(answers) or 'each label by the score of its name'}{paper}",
        f"tie threshold: {found['tie_threshold']}",
    ]


def draw(table: pd.DataFrame, result: dict[str, Any], questions: list[str], folder: Path) -> list[Path]:
    """calibration.png, and differences.png: a histogram of score differences for each label."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    made = []
    for name in ("calibration", "differences"):
        figure, axes = plt.subplots(
            1, len(questions), figsize=(4 * len(questions), 3.4), squeeze=False, layout="constrained"
        )
        for axis, question in zip(axes[0], questions, strict=True):
            axis.set_title(question)
            if name == "calibration":
                bins = result["calibration"][question]["bins"]
                axis.plot([b["difference"] for b in bins], [b["right"] for b in bins], "o-", label="people")
                axis.plot([b["difference"] for b in bins], [b["said"] for b in bins], "--", label="fitted")
                axis.set(xlabel="difference of scores", ylabel="better scored is preferred", ylim=(0.4, 1.02))
            else:
                difference = table[f"{question}_score_A"] - table[f"{question}_score_B"]
                for label, text in ((1, "A better"), (0, "same"), (-1, "B better")):
                    chosen = difference[(table[f"{question}_label"] == label).fillna(False)]
                    axis.hist(chosen, bins=40, alpha=0.5, label=f"{text} ({len(chosen)})")
                axis.set(xlabel="score(A) - score(B)")
            axis.legend(fontsize="small")
        figure.savefig(folder / f"{name}.png", dpi=110)
        plt.close(figure)
        made.append(folder / f"{name}.png")
    return made
