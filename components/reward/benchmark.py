"""A reward model against people's labels of pairs: `reelign bench-reward CSV --videos DIR`.

Which files are read, and by which protocol, stands in components/reward/layouts.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from components.errors import BadInput
from components.preferences.schema import LABEL_TEXT
from components.reward.figures import figures
from components.reward.layouts import Labelled, refuse
from components.reward.model_files import ModelFiles
from components.reward.pairs import NO_LABEL
from components.reward.scored import Scored
from components.stage import folder_digest


def check_videos(pairs: Labelled, videos: Path) -> None:
    """BadInput where a video is not there, before hours go into the others."""
    refuse(pairs, {item: f"{videos / item[0]}: no such file" for item in pairs.items() if not (videos / item[0]).is_file()})


def pair_table(pairs: Labelled, scores: Scored) -> pd.DataFrame:
    """A row a pair: row, prompt, paths, models, and for each question its label and the scores of A and B. BadInput names
    the line whose video could not be scored."""
    scores.refuse_unscored(pairs)
    table = pd.DataFrame({"row": pairs.rows, "prompt": pairs.prompts})
    for side, name in enumerate("AB"):
        table[f"path_{name}"], table[f"model_{name}"] = pairs.paths[side], pairs.models[side]
    for question, column in pairs.score_of.items():
        labels = pairs.labels[question]
        table[f"{question}_label"] = pd.Series(labels, dtype="Int64").mask(labels == NO_LABEL)
        for side, name in enumerate("AB"):
            table[f"{question}_score_{name}"] = scores.of_side(pairs, side, column)
    return table


def evaluate(
    pairs: Labelled, scores: Scored, model: ModelFiles, threshold_from: str, rounds: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of the pairs, and what figures.json says: figures, protocol, model, and digest of the pairs' file. Of
    `model` no more is read than its tie thresholds, where these are asked for."""
    table = pair_table(pairs, scores)
    thresholds = tie_thresholds(pairs, model, scores.model_version, threshold_from)
    found = figures(table, list(pairs.score_of), thresholds, threshold_from, rounds)
    found["protocol"] = protocol(pairs, threshold_from, thresholds)
    origin = {"model_version": scores.model_version, "frame_plan": scores.frame_plan}
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
