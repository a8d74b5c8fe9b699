"""Parquet tables with a fixed schema: the same rows give the same bytes."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import BadInput
from components.files.atomic import whole_file

BATCH = 4096  # rows converted to dicts at a time


def write_table(path: str | Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    """Write rows in order. A column outside `schema`, or one that a row lacks, is a KeyError: there are no defaults."""
    rows = list(rows)
    for row in rows:
        if row.keys() != set(schema.names):
            raise KeyError(f"{path}: columns {sorted(row.keys() ^ set(schema.names))} are in the row or the schema only")
    table = pa.Table.from_pylist(rows, schema=schema)
    with whole_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_table(path: str | Path, schema: pa.Schema | None = None) -> list[dict[str, Any]]:
    """All rows as dicts (null is None); BadInput when the file is missing or lacks a column of `schema`."""
    table = read_columns(path)
    if schema is not None:
        for field in schema:
            if field.name not in table.schema.names:
                raise BadInput(path, "missing column", key=field.name)
            if table.schema.field(field.name).type != field.type:
                found = table.schema.field(field.name).type
                raise BadInput(path, f"column is {found}, not {field.type}", key=field.name)
        table = table.select(schema.names)
    return table.to_pylist()


def iterate_table(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of read_table, converted to dicts in batches: the dicts of a large table take ten times its memory."""
    for batch in read_columns(path).to_batches(max_chunksize=BATCH):
        yield from batch.to_pylist()


def read_columns(path: str | Path) -> pa.Table:
    """The columns of a table; BadInput where it is no Parquet file."""
    if not Path(path).is_file():
        raise BadInput(path, "a folder, not a file" if Path(path).exists() else "missing")
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(
            path, f"not a Parquet file, or a damaged one: {(str(error) or 'no reason given').splitlines()[0]}"
        ) from error


def text_of(path: str | Path) -> str:
    """A path as a cell of a table, which must be UTF-8; other bytes are escaped, as in `\\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def spread(count: int, wanted: int) -> list[int]:
    """Positions of `wanted` evenly spaced rows of `count`, including the first and the last; all when there are fewer."""
    return sorted({round(float(at)) for at in np.linspace(0, count - 1, min(count, wanted))})
