"""Tables of scores, read back row by row."""

import pandas as pd
import pytest

from components.errors import BadInput
from components.reward.score_rows import read_score_rows

TABLE = pd.DataFrame({"path": ["a.mp4", "b.mp4"], "prompt": ["a\ncat", "x"], "status": ["ok", "failed"], "VQ": [1.5, None]})
TABLE["reason"] = [None, "torn"]


@pytest.mark.parametrize(("name", "places"), [("t.csv", [2, 4]), ("t.parquet", [0, 1])])
def test_rows_of_a_csv_are_lines_and_those_of_parquet_count_from_0(tmp_path, name, places):
    file = tmp_path / name
    TABLE.to_csv(file, index=False) if file.suffix == ".csv" else TABLE.to_parquet(file, index=False)
    rows = list(read_score_rows(file))
    assert [one.row for one in rows] == places and [one.path for one in rows] == ["a.mp4", "b.mp4"]
    assert rows[0].score("VQ") == 1.5
    with pytest.raises(BadInput, match=rf"{name}, row {places[1]}, key 'VQ': status ok, but '.*' is not a finite number"):
        rows[1].score("VQ")


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_of_something_else_is_named(tmp_path, name):
    file, table = tmp_path / name, TABLE.drop(columns="status")
    table.to_csv(file, index=False) if file.suffix == ".csv" else table.to_parquet(file, index=False)
    with pytest.raises(BadInput, match=rf"{name}.*key 'status': missing column"):
        list(read_score_rows(file))


def test_a_table_without_reasons_or_with_other_types_is_named(tmp_path):
    file = tmp_path / "t.parquet"
    TABLE.drop(columns="reason").to_parquet(file, index=False)
    with pytest.raises(BadInput, match=r"key 'reason': missing column"):
        list(read_score_rows(file))
    TABLE.assign(path=[None, "b.mp4"]).to_parquet(file, index=False)
    with pytest.raises(BadInput, match=r"t.parquet, row 0, key 'path': 'None' is no text"):
        list(read_score_rows(file))
    TABLE.to_parquet(tmp_path / "t.csv", index=False)
    with pytest.raises(BadInput, match=r"t.csv: not text but a Parquet file"):
        list(read_score_rows(tmp_path / "t.csv"))


@pytest.mark.parametrize("column", ["reward_model", "frame_plan"])
def test_scores_of_two_models_or_plans_are_refused_by_all_who_read_them(tmp_path, column):
    file, origin = tmp_path / "t.parquet", {"reward_model": "m", "frame_plan": "p"}
    three = pd.DataFrame({"path": list("abc"), "prompt": "x", "status": ["ok", "failed", "ok"], "reason": None, **origin})
    three.assign(**{column: ["first", None, "first"]}).to_parquet(file, index=False)
    assert len(list(read_score_rows(file))) == 3
    three.assign(**{column: ["first", None, "second"]}).to_parquet(file, index=False)
    with pytest.raises(BadInput, match=rf"row 2, key '{column}': 'second', but 'first' in row 0: scores of two are not"):
        list(read_score_rows(file))
