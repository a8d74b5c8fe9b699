"""Annotations as CSV, in Reelign's layout and others, read strictly: BadInput names the line of a bad row.

Columns of the pair: path_A, path_B, prompt, and labels (A, B, same) of any of VQ, MQ, TA and Overall, or one column `label`,
which is Overall's. Or chosen, rejected, prompt: the chosen clip is A, and Overall is A. Optional: annotator, model_A,
model_B (or A_model, B_model, as in VideoGen-RewardBench), and ratings of each single clip, 1 to 5, under VideoAlign's names:
MOS_A_VQ, MOS_B_VQ and so on. Other columns are not read. One row is one annotator's view of one pair; a file without the
column `annotator` holds final labels, annotator "given".
"""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from components.contracts import DIMENSIONS, LABEL_TEXT, LABELS, rating_columns
from components.errors import BadInput
from components.files.csv_tables import read_header, read_rows
from components.preferences.paths import clip_path
from components.preferences.split import prompt_key

GIVEN = "given"
REVIEWER = "reviewer"
SIDES = ("path_A", "path_B")
CHOSEN = ("chosen", "rejected")
LOWEST, HIGHEST = 1, 5  # of a rating
RATINGS = {side: dict(zip(DIMENSIONS, rating_columns(side), strict=True)) for side in "AB"}
UNRATED: dict[str, float | None] = dict.fromkeys(DIMENSIONS)  # one for all: nobody changes an annotation's ratings
ALIASES = {"A_model": "model_A", "B_model": "model_B", "chosen_model": "model_A", "rejected_model": "model_B"}
SPECIAL_TOKEN = re.compile(r"<\|\w+\|>")  # of Qwen2-VL's tokenizer, <|im_end|>, and of the reward model, <|VQ_reward|>


Pair = tuple[str, str, str]


def pair_of(prompt: str, one: str, other: str) -> Pair:
    """Key of a pair of clips of a prompt, independent of the sides."""
    return prompt_key(prompt), min(one, other), max(one, other)


@dataclass(frozen=True)
class Annotation:
    """One row. `labels` holds 1 (A better), -1 (B better), 0 (same) or None (not given) per dimension; `ratings_A` and
    `ratings_B` the rating of each single clip, 1 (worst) to 5, or None (not rated)."""

    row: int  # line of the file that the record starts on
    path_A: str
    path_B: str
    prompt: str
    annotator: str
    labels: dict[str, int | None]
    model_A: str | None
    model_B: str | None
    ratings_A: dict[str, float | None]
    ratings_B: dict[str, float | None]

    @property
    def pair(self) -> Pair:
        """Key of the compared pair, independent of the sides."""
        return pair_of(self.prompt, self.path_A, self.path_B)

    @property
    def ratings(self) -> dict[str, float | None]:
        """Ratings of both clips by column."""
        columns = [*rating_columns("A"), *rating_columns("B")]
        return dict(zip(columns, [*self.ratings_A.values(), *self.ratings_B.values()], strict=True))

    def swapped(self) -> "Annotation":
        """The same view with A and B exchanged."""
        return replace(
            self,
            path_A=self.path_B,
            path_B=self.path_A,
            labels={dimension: None if label is None else -label for dimension, label in self.labels.items()},
            model_A=self.model_B,
            model_B=self.model_A,
            ratings_A=self.ratings_B,
            ratings_B=self.ratings_A,
        )


# Fields with one column per dimension.
SPREAD = {"labels": DIMENSIONS, "ratings_A": rating_columns("A"), "ratings_B": rating_columns("B")}
ANNOTATION_COLUMNS = tuple(column for field in fields(Annotation)[1:] for column in SPREAD.get(field.name, (field.name,)))


@dataclass(frozen=True)
class Columns:
    """The columns of a CSV with a pair's two clips, and with the label of each dimension."""

    paths: tuple[str, str]
    labels: dict[str, str]


def read_annotations(path: str | Path, file: str | Path | None = None, root: str | Path | None = None) -> list[Annotation]:
    """All rows of an annotation CSV, in order. BadInput names the line and column of the first error, and `file` instead of
    `path` where `path` is a copy. Absolute paths of clips are accepted where they are below `root`."""
    file = file or path
    columns = read_columns(path, file)
    required = [*columns.paths, "prompt", *columns.labels.values()]
    rows = list(read_rows(path, required, ANNOTATION_COLUMNS, file, ALIASES))
    if not rows:
        raise BadInput(file, "no annotations")
    # A dimension without a single label was not part of the study: its column counts as absent.
    asked = {name: column for name, column in columns.labels.items() if any(not _absent(row[column]) for _, row in rows)}
    columns = replace(columns, labels=asked or columns.labels)
    return [_annotation(file, line, cells, columns, root) for line, cells in rows]


def read_columns(path: str | Path, file: str | Path) -> Columns:
    """The pair columns of the CSV at `path`; BadInput, of `file`, where it has none, or those of two layouts."""
    header = read_header(path, file, ALIASES)
    dimensions = {name: name for name in DIMENSIONS if name in header}
    if not set(CHOSEN) & set(header):
        # Beside dimension columns, `label` is ignored.
        return Columns(SIDES, dimensions or ({"Overall": "label"} if "label" in header else _no_labels(file, header)))
    if others := [name for name in (*SIDES, *dimensions, "label") if name in header]:
        why = f"chosen and rejected name the better clip; {', '.join(others)} beside them are ambiguous"
        raise BadInput(file, why, row=1, key=others[0])
    return Columns(CHOSEN, {})


def _no_labels(file: str | Path, header: Sequence[str]) -> dict[str, str]:
    if missing := [name for name in SIDES if name not in header]:
        why = f"missing column: a pair is path_A and path_B, or chosen and rejected; the header has {', '.join(header)}"
        raise BadInput(file, why, row=1, key=missing[0])
    why = f"no column of labels: {', '.join(DIMENSIONS)} (one or more), or label; the header has {', '.join(header)}"
    raise BadInput(file, why, row=1)


def write_annotations(file: str | Path, annotations: Iterable[Annotation]) -> None:
    """Write Reelign's layout."""
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(ANNOTATION_COLUMNS)
        for annotation in annotations:
            values = {field.name: getattr(annotation, field.name) for field in fields(annotation)}
            for dimension, label in annotation.labels.items():
                values[dimension] = "" if label is None else LABEL_TEXT.get(label, "")
            values |= annotation.ratings
            writer.writerow(["" if values[column] is None else values[column] for column in ANNOTATION_COLUMNS])


def read_prompts(file: str | Path) -> list[str]:
    """Prompts of a CSV with a column `prompt`, in order. BadInput names the line of one that cannot be used."""
    return [read_prompt(file, line, cells) for line, cells in read_rows(file, ["prompt"])]


def write_prompts(file: str | Path, prompts: Iterable[str]) -> None:
    """Write prompts.csv: one column, `prompt`."""
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["prompt"])
        writer.writerows([prompt] for prompt in prompts)


def group_by_pair(file: str | Path, annotations: Iterable[Annotation]) -> tuple[list[list[Annotation]], int]:
    """Annotations of each pair, in order of first appearance, all with the sides of the pair's first row.

    Also returns the number of dropped rows, exact repeats of the same annotator. BadInput when an annotator contradicts an
    earlier row, or when a pair's prompt has two spellings.
    """
    pairs: dict[Pair, dict[str, Annotation]] = {}
    dropped = 0
    for annotation in annotations:
        views = pairs.setdefault(annotation.pair, {})
        first = next(iter(views.values()), annotation)
        if annotation.prompt != first.prompt:
            why = f"row {first.row} has the same pair and prompt with other white space, case or Unicode form"
            raise BadInput(file, why, row=annotation.row, key="prompt")
        if annotation.path_A != first.path_A:
            annotation = annotation.swapped()
        earlier = views.setdefault(annotation.annotator, annotation)
        if earlier is annotation:
            continue
        said, before = annotation.labels | annotation.ratings, earlier.labels | earlier.ratings
        for column in said:
            if said[column] != before[column]:
                why = f"annotator '{annotation.annotator}' contradicts row {earlier.row}"
                raise BadInput(file, why, row=annotation.row, key=column)
        dropped += 1
    return [list(views.values()) for views in pairs.values()], dropped


def read_prompt(file: str | Path, line: int, cells: dict[str, str], column: str = "prompt") -> str:
    """The prompt of a row; BadInput where it is empty or has a special token, which could move the reward model's
    read-out."""
    prompt = cells[column]
    if not prompt:
        raise BadInput(file, "empty prompt", row=line, key=column)
    if token := SPECIAL_TOKEN.search(prompt):
        raise BadInput(file, f"the prompt holds the special token {token[0]}", row=line, key=column)
    return prompt


def _annotation(file: str | Path, line: int, cells: dict[str, str], columns: Columns, root: str | Path | None) -> Annotation:
    prompt = read_prompt(file, line, cells)
    paths = {}
    for side, column in zip(("path_A", "path_B"), columns.paths, strict=True):
        try:
            paths[side] = clip_path(cells[column], root)
        except ValueError as error:
            raise BadInput(file, str(error), row=line, key=column) from error
    if paths["path_A"] == paths["path_B"]:
        raise BadInput(file, "a clip is compared with itself", row=line, key=columns.paths[1])
    annotator = cells.get("annotator", GIVEN)
    if not annotator:
        raise BadInput(file, "empty annotator", row=line, key="annotator")
    labels = {dimension: _label(file, line, cells, columns, dimension, annotator) for dimension in DIMENSIONS}
    if annotator != REVIEWER and not any(label is not None for label in labels.values()):
        raise BadInput(file, "no label", row=line, key=next(iter(columns.labels.values()), None))
    return Annotation(
        row=line,
        **paths,
        prompt=prompt,
        annotator=annotator,
        labels=labels,
        model_A=cells.get("model_A") or None,
        model_B=cells.get("model_B") or None,
        ratings_A=_ratings(file, line, cells, "A"),
        ratings_B=_ratings(file, line, cells, "B"),
    )


def _label(
    file: str | Path, line: int, cells: dict[str, str], columns: Columns, dimension: str, annotator: str
) -> int | None:
    if columns.paths == CHOSEN:
        return LABELS["A"] if dimension == "Overall" else None
    column = columns.labels.get(dimension)
    if column is None:
        return None
    text = cells[column]
    if text in LABELS:
        return LABELS[text]
    # Overall is optional, and a reviewer may answer only disputed dimensions.
    if _absent(text) and (dimension == "Overall" or annotator == REVIEWER):
        return None
    raise BadInput(file, f"label '{text}' is not A, B or same", row=line, key=column)


def _ratings(file: str | Path, line: int, cells: dict[str, str], side: str) -> dict[str, float | None]:
    ratings = UNRATED
    for dimension, column in RATINGS[side].items():
        text = cells.get(column)
        if not text or _absent(text):
            continue
        try:
            value = float(text)
        except ValueError as error:
            raise BadInput(file, f"'{text}' is not a number", row=line, key=column) from error
        if not LOWEST <= value <= HIGHEST:
            raise BadInput(file, f"rating '{text}' is not from {LOWEST} to {HIGHEST}", row=line, key=column)
        ratings = ratings | {dimension: value}
    return ratings


def _absent(text: str) -> bool:
    """Whether a cell has no value; pandas and R write NA for one."""
    return text.casefold() in ("", "na", "n/a", "nan", "none", "null")
