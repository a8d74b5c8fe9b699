"""A reward model against people's labels of pairs or ratings of clips: `reelign bench-reward CSV --videos DIR`.

Which files are read, and by which protocol, stands in components/reward/layouts.py.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from components.contracts import LABEL_TEXT, LABELS
from components.errors import BadInput
from components.files.atomic import partial_folder, put_in_place
from components.files.locks import sole_writer
from components.pipeline.stage import folder_digest, write_json
from components.preferences.columns import AS_IT_IS, Mapped
from components.preferences.ratings import Rated
from components.reward.layouts import Labelled, read_benchmark, refuse
from components.reward.metrics import pair_metrics
from components.reward.model_files import ModelFiles
from components.reward.pairs import label_column
from components.reward.scored import Scored, find_scores, read_scores
from components.statistics.correlation import correlations
from components.statistics.intervals import as_text, counted

if TYPE_CHECKING:
    from components.reward.score_files import Progress, Workers


@dataclass(frozen=True)
class Labels:
    """The file of people's labels, and how it is read (components/reward/layouts.py)."""

    csv: Path
    answer: str | None = None
    mapped: Mapped = AS_IT_IS
    margin: float = 0.0

    def read(self, dimensions: list[str], videos: Path | None) -> Labelled:
        return read_benchmark(self.csv, dimensions, self.answer, videos, self.mapped, self.margin)


def find_known(labels: Labels, scores: Path, videos: Path | None) -> tuple[Labelled, Scored]:
    """The pairs of a CSV and their scores in a table; nothing is scored."""
    known = read_scores(scores)
    pairs = labels.read(list(known.values), videos)
    return pairs, find_scores(pairs, scores, known, videos)


def score_pairs(
    labels: Labels, videos: Path, model: ModelFiles, workers: "Workers", out: Path, progress: "Progress"
) -> tuple[Labelled, Scored]:
    """The pairs of a CSV, scored by a model, and the table `out` of their scores."""
    from components.reward.score_files import score_to, write_scores  # imports torch, which takes seconds

    dimensions = model.dimensions()
    pairs = labels.read(dimensions, videos)
    check_videos(pairs, videos)
    with sole_writer(out):  # `reelign score --out` may write it as well
        results = score_to(out, [(videos / path, prompt) for path, prompt in pairs.items()], model, workers, progress)
        write_scores(out, pairs.items(), results)
    return pairs, Scored.of(pairs.items(), results, dimensions)


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
    sides = [scores.positions(pairs, side) for side in range(2)]
    for question, column in pairs.score_of.items():
        table[f"{question}_label"] = label_column(pairs.labels[question])
        for name, places in zip("AB", sides, strict=True):
            table[f"{question}_score_{name}"] = scores.values[column][places]
    return table


def evaluate(
    pairs: Labelled, scores: Scored, model: ModelFiles, threshold_from: str, rounds: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of the pairs, and the content of figures.json: figures, protocol, model, and digest of the pairs' file. Of
    `model` no more is read than its tie thresholds, where these are needed."""
    table = pair_table(pairs, scores)
    thresholds = tie_thresholds(pairs, model, scores.model_version, threshold_from)
    found = pair_metrics(table, list(pairs.score_of), thresholds, threshold_from, rounds)
    found["protocol"] = protocol(pairs, threshold_from, thresholds)
    if pairs.rated is not None:
        found["correlations"] = rating_correlations(pairs, pairs.rated, scores, rounds)
    origin = {"model_version": scores.model_version, "frame_plan": scores.frame_plan}
    return table, found | origin | {"csv": str(pairs.file), "csv_digest": folder_digest(pairs.file)}


def rating_correlations(pairs: Labelled, rated: Rated, scores: Scored, rounds: int) -> dict[str, Any]:
    """Each column of ratings against the score that answers it, over the clips that were rated in it."""
    places = np.array([scores.places[item] for item in pairs.items()])
    prompts, found = np.array(rated.prompts, object), {}
    for question, score in pairs.score_of.items():
        known = ~np.isnan(rated.ratings[question])
        own = scores.values[score][places[known]]
        found[question] = correlations(rated.ratings[question][known], own, prompts[known], np.random.default_rng(0), rounds)
    return found


def tie_thresholds(pairs: Labelled, model: ModelFiles, version: str, threshold_from: str) -> dict[str, float | None]:
    """The model's own threshold by question, or none where they are fitted on the pairs. BadInput where the scores are of
    another model."""
    if threshold_from == "test":
        return {}
    if model.version() != version:
        why = f"is model {model.version()}, and the scores are of {version}: its tie thresholds are not theirs"
        raise BadInput(model.folder, f"{why} (--model, or --threshold-from test)")
    own = model.tie_thresholds()
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
        f"columns of {found['layout']}: {pairs} pairs{repeats}{published}{'; ' + read if read else ''}",
        f"answered: {', '.join(answers) or 'each label by the score of its name'}{paper}",
        f"tie threshold: {found['tie_threshold']}",
    ]


def correlation_lines(found: dict[str, Any]) -> list[str]:
    """Correlations of ratings for a terminal, a line a column and kind."""
    lines = []
    for question, kinds in found.items():
        for kind, words in (("across", "across {} clips of {}"), ("within", "within prompts, the mean of {1}, {0} clips")):
            known = kinds[kind]
            clips, prompts = known["spearman"]["n"], known["spearman"]["prompts"]
            told = words.format(clips, counted(prompts, "prompt"))
            lines.append(f"{question}, {told}: " + ", ".join(f"{name} {as_text(known[name])}" for name in known))
    return lines


def write_benchmark(folder: Path, table: pd.DataFrame, found: dict[str, Any]) -> list[Path]:
    """figures.json, pairs.csv and pictures, each whole; what a killed run has scored goes, now that it is not needed."""
    partial = partial_folder(folder / "figures.json")
    partial.mkdir(parents=True, exist_ok=True)
    write_json(partial / "figures.json", found)
    table.to_csv(partial / "pairs.csv", index=False)
    draw(table, found, list(found["dimensions"]), partial)
    made = [folder / file.name for file in sorted(partial.iterdir())]
    for file in made:
        put_in_place(partial / file.name, file)
    for done in (partial, partial_folder(folder / "scores.parquet")):
        shutil.rmtree(done, ignore_errors=True)
    return made


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
                for label, text in (("A", "A better"), ("same", "same"), ("B", "B better")):
                    chosen = difference[(table[f"{question}_label"] == LABELS[label]).fillna(False)]
                    axis.hist(chosen, bins=40, alpha=0.5, histtype="stepfilled", label=f"{text} ({len(chosen)})")
                axis.set(xlabel="score(A) - score(B)")
            axis.legend(fontsize="small")
        figure.savefig(folder / f"{name}.png", dpi=110)
        plt.close(figure)
        made.append(folder / f"{name}.png")
    return made
