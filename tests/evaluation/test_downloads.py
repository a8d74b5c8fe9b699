"""CSV files in the report are the figures of the metrics, whole."""

import io
import re
from urllib.parse import unquote

import pandas as pd
import pytest

from tests.evaluation.fixtures import make_report


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out, metrics = make_report(tmp_path_factory.mktemp("pipeline"))
    links = re.findall(r'download="([^"]+)" href="data:text/csv;charset=utf-8,([^"]*)"', out.read_text())
    return {name: pd.read_csv(io.StringIO(unquote(text)), dtype={"prompt_id": str}) for name, text in links}, metrics


def test_every_section_with_figures_has_its_table(made):
    assert set(made[0]) == {"clip_scores.csv", "win_rates.csv", "tradeoff.csv", "signals.csv", "reward_accuracy.csv"}


def test_win_rates(made):
    tables, metrics = made
    table = tables["win_rates.csv"].set_index(["method", "judge", "dimension"])
    assert len(table) == 4 * 2 * 4
    for (method, judge, dimension), row in table.iterrows():
        found = metrics["methods"][method]["win_rate"][judge][dimension]
        assert row[["value", "low", "high"]].tolist() == pytest.approx([found["value"], *found["ci95"]], abs=1e-4)
        assert row["p_holm"] == pytest.approx(found["p_holm"], rel=1e-3) and row["n"] == found["n"]


def test_scores_of_the_clips_that_are_shown(made):
    table = made[0]["clip_scores.csv"]
    assert table["prompt"].tolist() == sorted(table["prompt"]) and table["seed"].unique().tolist() == [0]
    assert len(table) == table["prompt"].nunique() == 12 and len(table.columns) == 3 + 5 * 2 * 4
    assert table.drop(columns=["prompt_id", "prompt"]).notna().all(axis=None)


def test_a_text_that_is_an_address_or_a_quote_stays_one_cell():
    from components.evaluation.downloads import address, scores

    row = {"prompt_id": "1", "seed": 0, "prompt": 'a "dog", & <b> 100%\nhere', "method": "base"}
    clips = pd.DataFrame([row | {f"reward_{name}": 0.5 for name in ("VQ", "MQ", "TA", "Overall")}])
    link = address(scores(clips, ["reward"]))
    assert not set('"<> \n&') & set(link)
    assert pd.read_csv(io.StringIO(unquote(link.partition(",")[2])))["prompt"][0] == row["prompt"]
