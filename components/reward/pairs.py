"""Labelled pairs, as reward training and its benchmark read them."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from components.contracts import NO_LABEL, PAIRS, SOURCE_ANNOTATIONS, label_codes
from components.errors import BadInput
from components.files.tables import read_table


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
    rows: list[int]  # of SOURCE_ANNOTATIONS, the first of each pair

    def __len__(self) -> int:
        return len(self.prompts)

    def sides(self) -> list[tuple[str, str]]:
        """(path, prompt) of all A, then of all B."""
        return [*zip(self.paths_a, self.prompts, strict=True), *zip(self.paths_b, self.prompts, strict=True)]

    def refusal(self, place: int, why: str, key: str) -> BadInput:
        """The error that names the pair at `place` by the row that people know."""
        return BadInput(SOURCE_ANNOTATIONS, why, row=self.rows[place], key=key)


def read_pairs(split: str, dimensions: list[str]) -> Pairs:
    """Pairs of data/pairs/<split>.parquet; BadInput when there are none, or a dimension has no column."""
    file = PAIRS / f"{split}.parquet"
    rows = read_table(file)
    if not rows:
        raise BadInput(file, "no pairs")
    for dimension in dimensions:
        if dimension not in rows[0]:
            raise BadInput(file, "no labels of this dimension", key=dimension)
    # A table of other dimensions than the annotation file's has no columns of ratings.
    ratings = [[[row.get(rating_column(side, name)) or 0 for name in dimensions] for row in rows] for side in "AB"]
    labels = [label_codes(row[name] for name in dimensions) for row in rows]
    return Pairs(
        file=file,
        pair_ids=[row["pair_id"] for row in rows],
        prompts=[row["prompt"] for row in rows],
        paths_a=[row["path_A"] for row in rows],
        paths_b=[row["path_B"] for row in rows],
        models_a=[row["model_A"] or "unknown" for row in rows],
        models_b=[row["model_B"] or "unknown" for row in rows],
        labels=np.array(labels),
        ratings=np.array(ratings, np.float32),
        rows=[row["rows"][0] for row in rows],
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


def label_column(labels: np.ndarray) -> pd.Series:
    """Codes [N] as a table has them, NA where there is no label."""
    return pd.Series(labels, dtype="Int64").mask(labels == NO_LABEL)


def rating_column(side: str, dimension: str) -> str:
    return f"MOS_{side}_{dimension}"


def need_ratings(pairs: Pairs, dimensions: list[str]) -> None:
    """BadInput where a side's clips have no rating at all in a dimension."""
    for side, ratings in zip("AB", pairs.ratings, strict=True):
        for dimension, column in zip(dimensions, ratings.T, strict=True):
            if not column.any():
                raise BadInput(pairs.file, "no ratings: this loss needs them", key=rating_column(side, dimension))
