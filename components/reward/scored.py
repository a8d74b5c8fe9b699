"""Scores of many videos, in columns: as `reelign score --out` wrote them, or as they come from a model. Without torch."""

import math
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from components.errors import BadInput
from components.reward.layouts import Item, Labelled, refuse
from components.reward.score_rows import MADE_BY, score_in, score_rows
from components.reward.scores import OVERALL, Score, Unscored, score_names


@dataclass(frozen=True)
class Scored:
    """`places`: position of each (path, prompt); `values`: normalised scores and Overall [N] by name, NaN where `reasons`
    has why there is none. All scores are of one model and one plan of frames."""

    places: dict[Item, int]
    values: dict[str, np.ndarray]
    reasons: dict[int, str]
    model_version: str
    frame_plan: str

    @classmethod
    def of(cls, items: Sequence[Item], results: Sequence[Score | Unscored], dimensions: Sequence[str]) -> "Scored":
        """Results of a model for distinct items."""
        scores = [None if isinstance(one, Unscored) else {**one.normalised, OVERALL: one.overall} for one in results]
        values = {name: np.array([math.nan if s is None else s[name] for s in scores]) for name in score_names(dimensions)}
        reasons = {place: one.reason for place, one in enumerate(results) if isinstance(one, Unscored)}
        first = next((one for one in results if isinstance(one, Score)), None)
        origin = (first.model_version, first.frame_plan) if first else ("", "")
        return cls(dict(zip(items, range(len(items)), strict=True)), values, reasons, *origin)

    def of_side(self, pairs: Labelled, side: int, name: str) -> np.ndarray:
        """The score `name` of each pair's video on a side (0 A, 1 B), [N]."""
        return self.values[name][[self.places[item] for item in zip(pairs.paths[side], pairs.prompts, strict=True)]]

    def refuse_unscored(self, pairs: Labelled) -> None:
        """BadInput for the line of the first pair with a video that could not be scored."""
        if self.reasons:
            refuse(pairs, {item: self.reasons[place] for item, place in self.places.items() if place in self.reasons})


def read_scores(file: Path) -> Scored:
    """Scores of a table that `reelign score --out` wrote (.parquet or .csv), by absolute path and prompt.

    BadInput names a score that is no finite number, a video with two scores for one prompt, and (score_rows) a row of
    another model or of other frames than the first: scores of two models are not compared.
    """
    places: dict[Item, int] = {}
    rows, reasons = array("q"), {}
    values: dict[str, array] = {}  # from the first score on
    raw: list[str] = []
    origin = ("", "")
    for row, cells in score_rows(file):
        found = None
        if cells["status"] == "ok":
            if not values:
                dimensions = _dimensions(file, cells)
                raw = [f"raw_{name}" for name in dimensions]
                values = {name: array("d", [math.nan] * len(rows)) for name in score_names(dimensions)}
                origin = cells["reward_model"], cells["frame_plan"]
            for name in raw:
                score_in(file, row, cells, name)
            found = [score_in(file, row, cells, name) for name in values]
        place = places.setdefault((os.path.abspath(cells["path"]), cells["prompt"]), len(rows))
        if place == len(rows):
            rows.append(row)
            if found is None:
                reasons[place] = f"failed in {file}, row {row}: {cells['reason']}"
            for column, value in zip(values.values(), found or [math.nan] * len(values), strict=True):
                column.append(value)
        elif (None if place in reasons else [column[place] for column in values.values()]) != found:
            raise BadInput(file, f"has another score for this prompt in row {rows[place]}", row=row, key="path")
    if not values:
        raise BadInput(file, "no row has a score")
    return Scored(places, {name: np.array(column) for name, column in values.items()}, reasons, *origin)


def _dimensions(file: Path, cells: Mapping[str, Any]) -> list[str]:
    dimensions = [name.removeprefix("raw_") for name in cells if name.startswith("raw_")]
    for column in (OVERALL, "reward_model", "frame_plan", *dimensions):
        if column not in cells:
            raise BadInput(file, f"missing column; {MADE_BY}", key=column)
    return dimensions


def find_scores(pairs: Labelled, table: Path, known: Scored, videos: Path | None) -> Scored:
    """The scores of the pairs' videos from `known`, which `table` holds: a video's path there is that of the file below
    `videos`, or the one of the CSV. BadInput names a pair whose video is not in it with the pair's prompt."""
    found: dict[Item, int] = {}
    absent: dict[Item, str] = {}
    for path, prompt in pairs.items():
        for place in (path,) if videos is None else (videos / path, path):
            if (position := known.places.get((os.path.abspath(place), prompt))) is not None:
                found[path, prompt] = position
                break
        else:
            absent[path, prompt] = f"{path} has no row with this prompt in {table}"
    refuse(pairs, absent)
    return replace(known, places=found)
