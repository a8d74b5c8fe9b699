"""Scores of many videos, in columns: as `reelign score --out` wrote them, or as they come from a model. Without torch."""

import math
import os
import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.errors import BadInput
from components.files.tables import read_columns
from components.reward.layouts import Item, Labelled, refuse
from components.reward.score_rows import RAW, read_score_rows
from components.reward.scores import OVERALL, Score, Unscored, score_names

# Relative paths without a part that is empty or begins with a dot, for which os.path.abspath is a join.
PLAIN = re.compile(r"[^./][^/]*(?:/[^./][^/]*)*").fullmatch


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

    def positions(self, pairs: Labelled, side: int) -> np.ndarray:
        """The positions of each pair's video on a side (0 A, 1 B), [N]."""
        return np.array([self.places[item] for item in zip(pairs.paths[side], pairs.prompts, strict=True)], int)

    def refuse_unscored(self, pairs: Labelled) -> None:
        """BadInput for the line of the first pair with a video that could not be scored."""
        if self.reasons:
            refuse(pairs, {item: self.reasons[place] for item, place in self.places.items() if place in self.reasons})


def read_scores(file: Path) -> Scored:
    """Scores of a table that `reelign score --out` wrote (.parquet or .csv), by absolute path and prompt.

    BadInput names a score that is no finite number, a video with two scores for one prompt, and (read_score_rows) a row of
    another model or of other frames than the first: scores of two models are not compared.
    """
    if (found := read_whole(file)) is not None:
        return found
    absolute = absolute_paths()
    places: dict[Item, int] = {}
    rows, reasons = array("q"), {}
    names, raw = [], []  # from the first score on
    values = array("d")  # of a row after the other
    origin = ("", "")
    for row in read_score_rows(file):
        found = None
        if row.ok:
            if not names:
                row.need(OVERALL, "reward_model", "frame_plan", *row.dimensions)
                names, raw = score_names(row.dimensions), [RAW + name for name in row.dimensions]
                values.extend([math.nan] * len(names) * len(rows))
                origin = row.reward_model or "", row.frame_plan or ""
            row.scores(raw)
            found = row.scores(names)
        place = places.setdefault((absolute(row.path or ""), row.prompt or ""), len(rows))
        if place == len(rows):
            rows.append(row.row)
            if found is None:
                reasons[place] = f"failed in {file}, row {row.row}: {row.reason}"
            values.extend(found or [math.nan] * len(names))
        elif (None if place in reasons else values[place * len(names) : (place + 1) * len(names)].tolist()) != found:
            raise BadInput(file, f"has another score for this prompt in row {rows[place]}", row=row.row, key="path")
    if not names:
        raise BadInput(file, "no row has a score")
    columns = np.frombuffer(values).reshape(-1, len(names)).T
    return Scored(places, dict(zip(names, columns, strict=True)), reasons, *origin)


def read_whole(file: Path) -> Scored | None:
    """As read_scores, by columns, for a .parquet of which each row has its scores and no two are of one video and prompt;
    None for all others, which are read row by row."""
    if file.suffix.lower() != ".parquet":
        return None
    table = read_columns(file)
    columns = dict(zip(table.schema.names, table.columns, strict=True))
    dimensions = [name.removeprefix(RAW) for name in columns if name.startswith(RAW)]
    names = score_names(dimensions)
    texts, numbers = ("path", "prompt", "status", "reward_model", "frame_plan"), [*names, *map(RAW.__add__, dimensions)]
    if not {*texts, *numbers, "reason"} <= columns.keys() or not len(table) or not dimensions:
        return None
    if any(columns[name].null_count for name in (*texts, *numbers)):
        return None
    if any(columns[name].type != pa.float64() or not np.isfinite(columns[name]).all() for name in numbers):
        return None
    origin = [columns[name].unique().to_pylist() for name in ("status", "reward_model", "frame_plan")]
    if origin[0] != ["ok"] or any(len(found) != 1 for found in origin):
        return None
    paths, prompts = (columns[name].to_pylist() for name in ("path", "prompt"))
    if not all(isinstance(one, str) for one in (paths[0], prompts[0], origin[1][0], origin[2][0])):
        return None
    places = dict(zip(zip(map(absolute_paths(), paths), prompts, strict=True), range(len(paths)), strict=True))
    if len(places) < len(paths):
        return None
    return Scored(places, {name: columns[name].to_numpy() for name in names}, {}, origin[1][0], origin[2][0])


def absolute_paths() -> Callable[[str | Path], str]:
    """Returns os.path.abspath of now: it looks up the working directory once."""
    here = os.getcwd()
    start = os.path.join(here, "")

    def absolute(path: str | Path) -> str:
        path = os.fspath(path)
        return start + path if PLAIN(path) else os.path.normpath(os.path.join(here, path))

    return absolute


def find_scores(pairs: Labelled, table: Path, known: Scored, videos: Path | None) -> Scored:
    """The scores of the pairs' videos from `known`, which `table` holds: a video's path there is that of the file below
    `videos`, or the one of the CSV. BadInput names a pair whose video is not in it with the pair's prompt."""
    absolute = absolute_paths()
    found: dict[Item, int] = {}
    absent: dict[Item, str] = {}
    for path, prompt in pairs.items():
        for place in (path,) if videos is None else (videos / path, path):
            if (position := known.places.get((absolute(place), prompt))) is not None:
                found[path, prompt] = position
                break
        else:
            absent[path, prompt] = f"{path} has no row with this prompt in {table}"
    refuse(pairs, absent)
    return replace(known, places=found)
