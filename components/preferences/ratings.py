"""Tables of people's ratings of single clips (mean opinion scores), and the pairs that ratings decide.

Columns: path, prompt, optional model, and ratings in any of VQ, MQ, TA and Overall, or in one column `rating`. Any scale
will do; more is better, and an empty cell is no rating. Several rows of one clip and prompt are several people's: their mean
counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from components.contracts import DIMENSIONS, LABELS
from components.errors import BadInput
from components.files.csv_tables import read_rows
from components.preferences.columns import AS_IT_IS, Mapped
from components.preferences.paths import clip_path, stored_file
from components.preferences.schema import GIVEN, HIGHEST, LOWEST, UNRATED, Annotation, _absent, read_prompt
from components.preferences.split import prompt_key

RATING = "rating"  # the one column of a table that has none by dimension
UNKNOWN = "unknown"  # the generator of a clip that names none
CLIP_COLUMNS = ("path", "prompt", "model")
PAIR_COLUMNS = ("path_A", "path_B", "left_video", "right_video", "chosen", "rejected")


@dataclass(frozen=True)
class Rated:
    """Rated clips, one a path and prompt. `ratings`: column to [N] float64, NaN where a clip was not rated. `rows`: the
    first line of each. `repeats`: how many rows are of an earlier row's clip."""

    file: Path
    rows: list[int]
    paths: list[str]
    prompts: list[str]
    models: list[str]
    ratings: dict[str, np.ndarray]
    repeats: int

    def pairs(self) -> list[tuple[int, int]]:
        """Places of the two clips of each pair: of one prompt, with a column that both are rated in. Sides alternate, so
        that the order of the file does not decide who is A."""
        of_prompt: dict[str, list[int]] = {}
        for place, prompt in enumerate(self.prompts):
            of_prompt.setdefault(prompt_key(prompt), []).append(place)
        known = ~np.isnan(np.stack(list(self.ratings.values())))  # [columns, N]
        found = []
        for places in of_prompt.values():
            for (i, one), (j, other) in combinations(enumerate(places), 2):
                if self.paths[one] != self.paths[other] and (known[:, one] & known[:, other]).any():
                    found.append((other, one) if (i + j) % 2 else (one, other))
        return found

    def labels(self, column: str, pairs: Sequence[tuple[int, int]], margin: float) -> list[int | None]:
        """The label of each pair in a column: the better rated clip, same where ratings differ by `margin` or less, None
        where a clip was not rated."""
        of = self.ratings[column].tolist()
        return [label_of(of[a], of[b], margin) for a, b in pairs]


def label_of(a: float, b: float, margin: float) -> int | None:
    if math.isnan(a) or math.isnan(b):
        return None
    # Means of whole stars are rounded when they are written: 3.67 and 3.33 differ by a third.
    return LABELS["same"] if abs(a - b) <= margin + 1e-9 else LABELS["A"] if a > b else LABELS["B"]


def is_ratings(header: Sequence[str]) -> bool:
    """Whether a header is of rated clips: `path` and no pair's columns."""
    return "path" in header and not set(PAIR_COLUMNS) & set(header)


def read_ratings(
    file: Path, columns: Sequence[str] = DIMENSIONS, videos: Path | None = None, mapped: Mapped = AS_IT_IS
) -> Rated:
    """The rated clips of a table. `columns`: those of ratings that are read, as far as they are there; `rating` where there
    is none of them. `videos`: the folder that paths are relative to, or below. BadInput names line and column."""
    with mapped.own_names():
        return _read(file, columns, videos, mapped)


def _read(file: Path, columns: Sequence[str], videos: Path | None, mapped: Mapped) -> Rated:
    header = mapped.header(file, (*CLIP_COLUMNS, *columns, RATING))
    wanted = [name for name in columns if name in header] or [name for name in (RATING,) if name in header]
    if not wanted:
        raise BadInput(
            file, f"no column of ratings: {', '.join((*columns, RATING))}; the header has {', '.join(header)}", row=1
        )
    places: dict[tuple[str, str], int] = {}
    rows, paths, prompts, models = [], [], [], []
    given: list[list[list[float]]] = []  # ratings by clip and column
    repeats = 0
    for line, cells in read_rows(file, ["path", "prompt", *wanted], ["model"], aliases=mapped.aliases()):
        prompt = read_prompt(file, line, cells)
        try:
            path = clip_path(cells["path"], videos)
        except ValueError as error:
            raise BadInput(file, str(error), row=line, key="path") from error
        path = path if videos is None else stored_file(videos, path) or path
        found = [read_rating(file, line, name, cells[name]) for name in wanted]
        place = places.setdefault((path, prompt), len(rows))
        if place == len(rows):
            rows.append(line)
            paths.append(path)
            prompts.append(prompt)
            models.append(cells.get("model") or UNKNOWN)
            given.append([[] for _ in wanted])
        else:
            repeats += 1
            if (cells.get("model") or UNKNOWN) != models[place]:
                raise BadInput(file, f"the clip is of {models[place]} in row {rows[place]}", row=line, key="model")
        for of_column, rating in zip(given[place], found, strict=True):
            of_column.extend([] if rating is None else [rating])
    if not rows:
        raise BadInput(file, "no rated clips")
    means = np.array([[np.mean(one) if one else math.nan for one in clip] for clip in given])
    rated = dict(zip(wanted, means.T, strict=True))
    if all(np.isnan(column).all() for column in rated.values()):
        raise BadInput(file, "no clip has a rating", key=wanted[0])
    return Rated(file, rows, paths, prompts, models, {n: v for n, v in rated.items() if not np.isnan(v).all()}, repeats)


def read_rating(file: Path, line: int, key: str, text: str) -> float | None:
    if _absent(text):
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(file, f"'{text}' is not a number", row=line, key=key)
    return value


def annotations_of(rated: Rated, margin: float) -> tuple[list[Annotation], int]:
    """The pairs of rated clips as annotations, and how many were left out, as a clip of theirs lacks a rating that others
    have: an annotation has all labels but Overall. Ratings go along where all are from 1 to 5, for losses that read them. A
    column `rating` is Overall's. BadInput where no pair is left."""
    pairs = rated.pairs()
    names = {"Overall" if column == RATING else column: column for column in rated.ratings}
    needed = [column for name, column in names.items() if name != "Overall"]
    whole = [pair for pair in pairs if not any(np.isnan(rated.ratings[column][list(pair)]).any() for column in needed)]
    if not whole:
        why = (
            f"no two clips of a prompt are rated in all of {', '.join(rated.ratings)}"
            if pairs
            else "no two clips of a prompt"
        )
        raise BadInput(rated.file, f"{why}: no pair can be made")
    left_out, pairs = len(pairs) - len(whole), whole
    labels = {name: rated.labels(column, pairs, margin) for name, column in names.items()}
    stars = all(np.nanmin(of) >= LOWEST and np.nanmax(of) <= HIGHEST for of in rated.ratings.values())

    def ratings(place: int) -> dict[str, float | None]:
        found = {name: float(rated.ratings[column][place]) for name, column in names.items()}
        return UNRATED | ({n: None if math.isnan(value) else value for n, value in found.items()} if stars else {})

    found = [
        Annotation(
            row=rated.rows[a],
            path_A=rated.paths[a],
            path_B=rated.paths[b],
            prompt=rated.prompts[a],
            annotator=GIVEN,
            labels={name: labels[name][place] if name in labels else None for name in DIMENSIONS},
            model_A=rated.models[a] if rated.models[a] != UNKNOWN else None,
            model_B=rated.models[b] if rated.models[b] != UNKNOWN else None,
            ratings_A=ratings(a),
            ratings_B=ratings(b),
        )
        for place, (a, b) in enumerate(pairs)
    ]
    return found, left_out
