"""Labelled pairs, as reward training and its benchmark read them."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from components.errors import BadInput
from components.tables import read_table

VIDEOS = Path("data/source/videos")
ANNOTATIONS = Path("data/source/annotations.csv")
NO_LABEL = 22  # the reference's code for "not labelled"; any number but 1, -1 and 0 would do


@dataclass(frozen=True)
class Pairs:
    """Pairs of one split, in columns. `labels` [N, D] int: 1 A, -1 B, 0 same, NO_LABEL none; `ratings` [2, N, D] float32 of
    A and of B, 1 to 5, 0 none."""

    file: Path
    pair_ids: list[str]
    prompts: list[str]
    paths_a: list[str]
    paths_b: list[str]
    models_a: list[str]
    models_b: list[str]
    labels: np.ndarray
    ratings: np.ndarray
    rows: list[int]  # of ANNOTATIONS, the first of each pair

    def __len__(self) -> int:
        return len(self.prompts)

    def sides(self) -> list[tuple[str, str]]:
        """(path, prompt) of all A, then of all B."""
        return [*zip(self.paths_a, self.prompts, strict=True), *zip(self.paths_b, self.prompts, strict=True)]

    def refusal(self, place: int, why: str, key: str) -> BadInput:
        """The error that names the pair at `place` by the row that people know."""
        return BadInput(ANNOTATIONS, why, row=self.rows[place], key=key)


def read_pairs(split: str, dimensions: list[str]) -> Pairs:
    """Pairs of data/pairs/<split>.parquet; BadInput when there are none, or a dimension has no column."""
    file = Path(f"data/pairs/{split}.parquet")
    rows = read_table(file)
    if not rows:
        raise BadInput(file, "no pairs")
    for dimension in dimensions:
        if dimension not in rows[0]:
            raise BadInput(file, "no labels of this dimension", key=dimension)
    # A table of other dimensions than the annotation file's has no columns of ratings.
    ratings = [[[row.get(rating_column(side, name)) or 0 for name in dimensions] for row in rows] for side in "AB"]
    labels = [[NO_LABEL if row[name] is None else row[name] for name in dimensions] for row in rows]
    column = {name: [row[name] for row in rows] for name in ("pair_id", "prompt", "path_A", "path_B")}
    models = [[row[name] or "unknown" for row in rows] for name in ("model_A", "model_B")]
    return Pairs(
        file, *column.values(), *models, np.array(labels), np.array(ratings, np.float32), [row["rows"][0] for row in rows]
    )


def shuffled(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """Pairs with the labels and ratings of others. Where all labels stand on one side, as those of chosen and rejected clips
    do, others' labels are the same ones: there sides are drawn, too."""
    order = rng.permutation(len(pairs))
    labels, ratings = pairs.labels[order], pairs.ratings[:, order]
    for column in labels.T:
        if len(set(column.tolist()) & {1, -1}) == 1:
            decided = np.abs(column) == 1
            column[decided] *= rng.choice([1, -1], decided.sum())
    return replace(pairs, labels=labels, ratings=ratings)


def rating_column(side: str, dimension: str) -> str:
    return f"MOS_{side}_{dimension}"


def need_ratings(pairs: Pairs, dimensions: list[str]) -> None:
    """BadInput where a side's clips have no rating at all in a dimension."""
    for side, ratings in zip("AB", pairs.ratings, strict=True):
        for dimension, column in zip(dimensions, ratings.T, strict=True):
            if not column.any():
                raise BadInput(pairs.file, "no ratings: this loss needs them", key=rating_column(side, dimension))
