"""Parquet tables refuse what their schema does not say."""

import pyarrow as pa
import pytest

from components.errors import BadInput
from components.files.tables import read_table, spread, write_table

SCHEMA = pa.schema([pa.field("name", pa.string(), nullable=False), pa.field("label", pa.int8())])


def test_round_trip(tmp_path):
    rows = [{"name": "a", "label": -1}, {"name": "b", "label": None}]
    write_table(tmp_path / "t.parquet", rows, SCHEMA)
    assert read_table(tmp_path / "t.parquet", SCHEMA) == rows
    write_table(tmp_path / "t.parquet", [], SCHEMA)
    assert read_table(tmp_path / "t.parquet", SCHEMA) == []


def test_columns_must_be_those_of_the_schema(tmp_path):
    with pytest.raises(KeyError, match="label"):
        write_table(tmp_path / "t.parquet", [{"name": "a"}], SCHEMA)
    with pytest.raises(pa.ArrowInvalid):
        write_table(tmp_path / "t.parquet", [{"name": "a", "label": 1000}], SCHEMA)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"t.parquet: missing"):
        read_table(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_text("text")
    with pytest.raises(BadInput, match="not a Parquet file"):
        read_table(tmp_path / "t.parquet")
    write_table(tmp_path / "t.parquet", [{"name": "a"}], pa.schema([pa.field("name", pa.string())]))
    with pytest.raises(BadInput, match="key 'label': missing column"):
        read_table(tmp_path / "t.parquet", SCHEMA)
    write_table(tmp_path / "t.parquet", [{"name": "a", "label": 1}], SCHEMA.set(1, pa.field("label", pa.int64())))
    with pytest.raises(BadInput, match="key 'label': column is int64, not int8"):
        read_table(tmp_path / "t.parquet", SCHEMA)


def test_spread_keeps_both_ends_and_takes_all_of_a_few():
    assert spread(100, 5) == [0, 25, 50, 74, 99]
    assert spread(3, 12) == [0, 1, 2]
