"""A reward model against a labelled CSV of the user's: `reelign bench-reward CSV --videos DIR`.

Layouts: VideoGen-RewardBench's (path_A, path_B, A_model, B_model, prompt, VQ, MQ, TA, Overall; labels A, B, same), which is
VideoAlign's own; and GenAI-Bench's video part (prompt, left_video, right_video, left_model, right_model, vote_type), whose
one label is compared with the TA score, as the paper does. Each distinct video and prompt is scored once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.errors import BadInput
from components.preferences.schema import clip_path, read_annotations
from components.reward.pairs import NO_LABEL
from components.reward.score import OVERALL, RewardModel, Unscored

GENAI_COLUMNS = ("prompt", "left_video", "right_video", "left_model", "right_model", "vote_type")
GENAI_VOTES = {"leftvote": 1, "rightvote": -1, "tievote": 0, "bothbad_vote": 0}


@dataclass(frozen=True)
class Labelled:
    """Pairs of a CSV. `labels`: question to [N] int (1 A, -1 B, 0 same, NO_LABEL); `score_of`: question to the score that
    answers it; `rows`: line of the file of each pair."""

    file: Path
    rows: list[int]
    prompts: list[str]
    paths: tuple[list[str], list[str]]
    models: tuple[list[str], list[str]]
    labels: dict[str, np.ndarray]
    score_of: dict[str, str]


def read_benchmark(file: Path, dimensions: list[str]) -> Labelled:
    """Pairs of either layout, told apart by the header; BadInput names line and column."""
    if not file.exists():
        raise BadInput(file, "missing")
    header = pd.read_csv(file, nrows=0).columns
    return _genai(file, dimensions) if "left_video" in header else _videogen(file, dimensions)


def _videogen(file: Path, dimensions: list[str]) -> Labelled:
    views = read_annotations(file)
    wanted = [name for name in (*dimensions, OVERALL) if any(view.labels.get(name) is not None for view in views)]
    labels = {
        name: np.array([NO_LABEL if view.labels[name] is None else view.labels[name] for view in views]) for name in wanted
    }
    paths = [view.path_A for view in views], [view.path_B for view in views]
    models = [view.model_A or "unknown" for view in views], [view.model_B or "unknown" for view in views]
    score_of = {name: name for name in wanted}
    return Labelled(file, [view.row for view in views], [view.prompt for view in views], paths, models, labels, score_of)


def _genai(file: Path, dimensions: list[str]) -> Labelled:
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    for column in GENAI_COLUMNS:
        if column not in table:
            raise BadInput(file, "missing column", row=1, key=column)
    for row, record in enumerate(table.to_dict("records"), start=2):
        if not record["prompt"].strip():
            raise BadInput(file, "empty prompt", row=row, key="prompt")
        if record["vote_type"] not in GENAI_VOTES:
            raise BadInput(file, f"'{record['vote_type']}' is not {', '.join(GENAI_VOTES)}", row=row, key="vote_type")
        for key in ("left_video", "right_video"):
            try:
                clip_path(record[key])
            except ValueError as error:
                raise BadInput(file, str(error), row=row, key=key) from error
    answer = "TA" if "TA" in dimensions else OVERALL
    return Labelled(
        file,
        list(range(2, len(table) + 2)),
        list(table.prompt),
        (list(table.left_video), list(table.right_video)),
        (list(table.left_model), list(table.right_model)),
        {"preference": table.vote_type.map(GENAI_VOTES).to_numpy()},
        {"preference": answer},
    )


def score_benchmark(model: RewardModel, pairs: Labelled, videos: Path, watch: Callable) -> pd.DataFrame:
    """A row a pair: row, prompt, paths, models, and for each question its label and the scores of A and B.

    BadInput names the line whose video cannot be scored: a benchmark over fewer pairs is another benchmark.
    """
    sides = [[(videos / path, prompt) for path, prompt in zip(paths, pairs.prompts, strict=True)] for paths in pairs.paths]
    results = model.score([*sides[0], *sides[1]], watch)
    for place, result in enumerate(results):
        if isinstance(result, Unscored):
            side, row = divmod(place, len(pairs.rows))
            raise BadInput(pairs.file, result.reason, row=pairs.rows[row], key=f"video {'AB'[side]}")
    table = pd.DataFrame({"row": pairs.rows, "prompt": pairs.prompts})
    for side, name in enumerate("AB"):
        table[f"path_{name}"], table[f"model_{name}"] = pairs.paths[side], pairs.models[side]
    scores = [{**result.normalised, OVERALL: result.overall} for result in results]
    for question, column in pairs.score_of.items():
        table[f"{question}_label"] = pd.Series(pairs.labels[question], dtype="Int64").mask(
            pairs.labels[question] == NO_LABEL
        )
        for side, name in enumerate("AB"):
            part = scores[side * len(pairs.rows) : (side + 1) * len(pairs.rows)]
            table[f"{question}_score_{name}"] = [score[column] for score in part]
    return table


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
