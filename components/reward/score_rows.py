"""Rows of a table that `reelign score --out` wrote, for all who read one; without torch."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from components.csv_files import read_rows
from components.errors import BadInput
from components.tables import read_table

MADE_BY = "`reelign score --csv FILE --out TABLE` writes it"


def score_rows(file: Path, wanted: Sequence[str] = ("path", "prompt", "status", "reason")) -> Iterable[tuple[int, dict]]:
    """(row, cell by column) of a table of scores; rows of a .csv are lines, those of a .parquet count from 0. BadInput where
    a column of `wanted` is missing."""
    if file.suffix.lower() != ".parquet":
        return read_rows(file, wanted)
    rows = read_table(file)
    for column in wanted:
        if rows and column not in rows[0]:
            raise BadInput(file, f"missing column; {MADE_BY}", key=column)
    for row, cells in enumerate(rows):
        for column in wanted:
            if column != "reason" and not isinstance(cells[column], str):
                raise BadInput(file, f"'{cells[column]}' is no text", row=row, key=column)
    return enumerate(rows)


def score_in(file: Path, row: int, cells: dict, column: str) -> float:
    """A score of a row whose status is ok; BadInput where it is not a finite number."""
    try:
        value = float(cells[column])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(file, f"status ok, but '{cells[column]}' is not a finite number", row=row, key=column)
    return value
