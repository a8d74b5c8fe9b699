"""Rows of a table that `reelign score --out` wrote, for all who read one; without torch."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from components.csv_files import read_rows
from components.errors import BadInput
from components.tables import iterate_table

MADE_BY = "`reelign score --csv FILE --out TABLE` writes it"


def score_rows(file: Path, wanted: Sequence[str] = ("path", "prompt", "status", "reason")) -> Iterable[tuple[int, dict]]:
    """(row, cell by column) of a table of scores; rows of a .csv are lines, those of a .parquet count from 0. BadInput where
    a column of `wanted` is missing, and for a score by another model or of other frames than the first one: such scores
    are not compared."""
    first: tuple[int, dict] | None = None
    for row, cells in _rows(file, wanted):
        if cells["status"] == "ok":
            first = first or (row, cells)
            for key in ("reward_model", "frame_plan"):
                if cells.get(key) != first[1].get(key):
                    why = f"'{cells[key]}', but '{first[1][key]}' in row {first[0]}: scores of two are not compared"
                    raise BadInput(file, why, row=row, key=key)
        yield row, cells


def _rows(file: Path, wanted: Sequence[str]) -> Iterable[tuple[int, dict]]:
    if file.suffix.lower() != ".parquet":
        yield from read_rows(file, wanted)
        return
    for row, cells in enumerate(iterate_table(file)):
        for column in wanted:
            if column not in cells:
                raise BadInput(file, f"missing column; {MADE_BY}", key=column)
            if column != "reason" and not isinstance(cells[column], str):
                raise BadInput(file, f"'{cells[column]}' is no text", row=row, key=column)
        yield row, cells


def score_in(file: Path, row: int, cells: dict, column: str) -> float:
    """A score of a row whose status is ok; BadInput where it is not a finite number."""
    try:
        value = float(cells[column])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(file, f"status ok, but '{cells[column]}' is not a finite number", row=row, key=column)
    return value
