"""Rows of a table that `reelign score --out` wrote, for all who read one; without torch."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from components.errors import BadInput
from components.files.csv_tables import read_rows
from components.files.tables import iterate_table

MADE_BY = "`reelign score --csv FILE --out TABLE` writes it"
ABOUT = ("path", "prompt", "status", "reason", "frame_plan", "reward_model")  # columns that are no score
RAW = "raw_"


class ScoreRow(NamedTuple):
    """A video under a prompt. `row` is a line of a .csv, or counts from 0 in a .parquet; `ok` is false where it could not be
    scored, for the `reason`; reward_model and frame_plan are None in a table without them."""

    file: Path
    row: int
    path: str
    prompt: str | None
    ok: bool
    reason: str | None
    reward_model: str | None
    frame_plan: str | None
    cells: dict[str, Any]

    @property
    def columns(self) -> list[str]:
        """Columns of scores, in the order of the table."""
        return [column for column in self.cells if column not in ABOUT]

    @property
    def dimensions(self) -> list[str]:
        """Those with a raw score."""
        return [column.removeprefix(RAW) for column in self.columns if column.startswith(RAW)]

    def need(self, *columns: str) -> None:
        """BadInput where the table lacks a column."""
        for column in columns:
            if column not in self.cells:
                raise BadInput(self.file, f"missing column; {MADE_BY}", key=column)

    def score(self, column: str) -> float:
        """A score of a row that has some; BadInput where it is not a finite number."""
        try:
            value = float(self.cells[column])
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            why = f"status ok, but '{self.cells[column]}' is not a finite number"
            raise BadInput(self.file, why, row=self.row, key=column)
        return value

    def scores(self, columns: Sequence[str]) -> list[float]:
        """As `score` of each column."""
        try:
            values = [float(self.cells[column]) for column in columns]
        except (TypeError, ValueError):
            values = [math.nan]
        # The sum is finite where each of them is, but for overflow.
        return values if math.isfinite(sum(values)) else [self.score(column) for column in columns]


def read_score_rows(file: Path, wanted: Sequence[str] = ("path", "prompt", "status", "reason")) -> Iterator[ScoreRow]:
    """BadInput where a column of `wanted` is missing, and for a score by another model or of other frames than the first
    one: such scores are not compared."""
    first: ScoreRow | None = None
    for number, cells in _rows(file, wanted):
        path: Any = cells.get("path")
        about = cells.get("reason"), cells.get("reward_model"), cells.get("frame_plan")
        row = ScoreRow(file, number, path, cells.get("prompt"), cells["status"] == "ok", *about, cells)
        if row.ok:
            first = first or row
            for key in ("reward_model", "frame_plan"):
                if cells.get(key) != first.cells.get(key):
                    why = f"'{cells[key]}', but '{first.cells[key]}' in row {first.row}: scores of two are not compared"
                    raise BadInput(file, why, row=number, key=key)
        yield row


def _rows(file: Path, wanted: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
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
