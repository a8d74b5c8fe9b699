"""What bench-reward reads and counts at once, against the straightforward way, row by row: equal to the last digit."""

import math
import os

import numpy as np
import pandas as pd
import pytest

from components.contracts import DIMENSIONS
from components.preferences.schema import ANNOTATION_COLUMNS, group_by_pair, read_annotations, write_annotations
from components.reward.benchmark import evaluate
from components.reward.layouts import read_benchmark
from components.reward.metrics import by_generator, measure, pair_metrics
from components.reward.model_files import ModelFiles
from components.reward.scored import absolute_paths, find_scores, read_scores, read_whole

NAMES = DIMENSIONS[:3]
PAIRS = 300
PATHS = ("clips/{}.mp4", "./clips//{}.mp4", "other/../clips/{}.mp4")  # one file each


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def files(tmp_path_factory, rng):
    """Pairs of 40 prompts in several spellings, some of one generator alone; scores with repeats and a row that failed."""
    folder = tmp_path_factory.mktemp("plain")
    prompts = [f"Prompt {rng.integers(40)}, été" if n % 2 else f"a prompt {rng.integers(40)}" for n in range(PAIRS)]
    pairs = pd.DataFrame({"prompt": prompts})
    rows = []
    for side in "AB":
        pairs[f"path_{side}"] = [f"clips/{side}{n}.mp4" for n in range(PAIRS)]
        pairs[f"model_{side}"] = rng.integers(0, 3, PAIRS).astype(str)
        scores = rng.normal(size=(PAIRS, 3)).round(1)  # with equal differences
        table = pd.DataFrame({"path": [PATHS[n % 3].format(f"{side}{n}") for n in range(PAIRS)], "prompt": prompts})
        table[list(NAMES)], table[[f"raw_{name}" for name in NAMES]] = scores, 3 + 2 * scores
        rows.append(table.assign(status="ok", reason=None, Overall=scores.sum(1)))
    for name in DIMENSIONS:
        pairs[name] = rng.choice(["A", "B", "same"], PAIRS)
    pairs.to_csv(folder / "pairs.csv", index=False)
    table = pd.concat([*rows, rows[0][:20]]).assign(reward_model="m", frame_plan="p")
    failed = table[:1].assign(path="clips/torn.mp4", status="failed", reason="torn", **dict.fromkeys(NAMES, math.nan))
    pd.concat([failed, table, failed]).to_parquet(folder / "scores.parquet", index=False)
    return folder


def test_scores_of_a_table(files):
    file = files / "scores.parquet"
    plain, first = {}, {}
    for number, row in enumerate(pd.read_parquet(file).to_dict("records")):
        key = os.path.abspath(row["path"]), row["prompt"]
        first.setdefault(key, number)
        plain[key] = [row[name] if row["status"] == "ok" else math.nan for name in (*NAMES, "Overall")]
    found = read_scores(file)
    assert list(found.places) == list(plain) and len(plain) == 2 * PAIRS + 1
    np.testing.assert_array_equal(np.stack([*found.values.values()], axis=1), list(plain.values()))
    assert list(found.values) == [*NAMES, "Overall"] and found.reasons == {0: f"failed in {file}, row 0: torn"}


def test_a_table_read_at_once_is_the_one_read_row_by_row(files, tmp_path):
    """What is whole in all its rows is read by columns; any other, and each error, as ever."""
    table = pd.read_parquet(files / "scores.parquet")
    whole = table[table.status == "ok"].drop_duplicates(["path", "prompt"])
    for name in ("whole.parquet", "whole.csv"):
        whole.to_csv(tmp_path / name, index=False) if name.endswith("csv") else whole.to_parquet(
            tmp_path / name, index=False
        )
    at_once, by_row = read_whole(tmp_path / "whole.parquet"), read_scores(tmp_path / "whole.csv")
    assert read_whole(tmp_path / "whole.csv") is None and read_whole(files / "scores.parquet") is None
    assert at_once.places == by_row.places and list(at_once.places) == list(by_row.places)
    assert at_once.values.keys() == by_row.values.keys() and at_once.reasons == by_row.reasons == {}
    for name, column in at_once.values.items():
        np.testing.assert_array_equal(column, by_row.values[name])
    assert (at_once.model_version, at_once.frame_plan) == (by_row.model_version, by_row.frame_plan) == ("m", "p")
    last = [whole.index[-1]]
    for column, value in {
        "VQ": math.nan,
        "raw_TA": math.inf,
        "status": "failed",
        "reward_model": "n",
        "prompt": None,
    }.items():
        whole.assign(**{column: whole[column].where(whole.index != last[0], value)}).to_parquet(tmp_path / "other.parquet")
        assert read_whole(tmp_path / "other.parquet") is None, column
    whole.drop(columns="raw_VQ").to_parquet(tmp_path / "other.parquet")
    assert list(read_whole(tmp_path / "other.parquet").values) == ["MQ", "TA", "Overall"]
    whole.drop(columns="Overall").to_parquet(tmp_path / "other.parquet")
    assert read_whole(tmp_path / "other.parquet") is None


@pytest.mark.parametrize(
    "path", ["a.mp4", "a/b.mp4", "./a", "a//b", "a/../b", "/a/./b", "..", "a/.b", "a/b/", ".a", "", "a b/c"]
)
def test_a_path_is_made_absolute_as_the_library_does_it(path, monkeypatch, tmp_path):
    for folder in (tmp_path, "/"):
        monkeypatch.chdir(folder)
        assert absolute_paths()(path) == os.path.abspath(path)


def plain_table(folder):
    """Of the command's two files, a row a pair, by pandas alone."""
    pairs = pd.read_csv(folder / "pairs.csv", dtype=str)
    table = pd.read_parquet(folder / "scores.parquet").drop_duplicates(["path", "prompt"])
    table.index = pd.MultiIndex.from_arrays([table.path.map(os.path.normpath), table.prompt])
    for name in DIMENSIONS:
        pairs[f"{name}_label"] = pairs[name].map({"A": 1, "B": -1, "same": 0})
        for side in "AB":
            keys = zip(pairs[f"path_{side}"], pairs.prompt, strict=True)
            pairs[f"{name}_score_{side}"] = [table[name][key] for key in keys]
    return pairs


def test_figures(files):
    plain = plain_table(files)
    pairs = read_benchmark(files / "pairs.csv", list(NAMES))
    scores = find_scores(pairs, files / "scores.parquet", read_scores(files / "scores.parquet"), None)
    table, found = evaluate(pairs, scores, ModelFiles("nowhere", None, -1), "test", 50)
    columns = [f"{name}_{what}" for name in DIMENSIONS for what in ("label", "score_A", "score_B")]
    np.testing.assert_array_equal(table[columns].to_numpy(float), plain[columns].to_numpy(float))
    for name in DIMENSIONS:
        labels = plain[f"{name}_label"].to_numpy()
        differences = (plain[f"{name}_score_A"] - plain[f"{name}_score_B"]).to_numpy()
        # Prompts as texts draw the same intervals as their numbers do.
        drawn = np.random.default_rng(0)
        assert found["dimensions"][name] == measure(labels, differences, plain.prompt.to_numpy(), None, "test", drawn, 50)
        assert found["dimensions"][name]["accuracy_with_ties"]["ci95"] is not None
        for model in "012":
            decided = [n for n in range(PAIRS) if labels[n] and model in (plain.model_A[n], plain.model_B[n])]
            right = sum(np.sign(differences[n]) == labels[n] for n in decided)
            assert found["generators"][name][model] == {"accuracy_without_ties": right / len(decided), "n": len(decided)}
    assert found["prompts"] == plain.prompt.nunique()


def test_a_generator_whose_pairs_are_all_ties_has_no_accuracy():
    part = pd.DataFrame({"model_A": ["b", "b", "c"], "model_B": ["a", "b", "c"]})
    found = by_generator(part, np.array([0, 1, -1]), np.array([1.0, 1.0, 1.0]))
    assert list(found) == ["a", "b", "c"] and found["a"] == {"accuracy_without_ties": None, "n": 0}
    assert found["b"] == {"accuracy_without_ties": 1.0, "n": 1} and found["c"] == {"accuracy_without_ties": 0.0, "n": 1}


def test_the_table_that_is_measured_stays_as_it_is(files):
    table = plain_table(files)
    before = table.copy()
    pair_metrics(table, list(DIMENSIONS), {}, "test", 2)
    pd.testing.assert_frame_equal(table, before)


def test_annotations_with_and_without_ratings(tmp_path):
    header = "path_A,path_B,prompt,annotator,VQ,MQ,TA,MOS_A_VQ,MOS_B_TA"
    lines = ["a,b,x,1,A,same,B,4,2.5", "a,b,x,2,B,B,B,NA,", "c,d,y,1,same,A,A,,5"]
    (tmp_path / "x.csv").write_text("\n".join([header, *lines]))
    views = read_annotations(tmp_path / "x.csv")
    rated = [{name: value for name, value in view.ratings.items() if value is not None} for view in views]
    assert rated == [{"MOS_A_VQ": 4.0, "MOS_B_TA": 2.5}, {}, {"MOS_B_TA": 5.0}]
    assert [list(view.labels.values()) for view in views] == [[1, 0, -1, None], [-1, -1, -1, None], [0, 1, 1, None]]
    write_annotations(tmp_path / "y.csv", views)
    assert (tmp_path / "y.csv").read_text().startswith(",".join(ANNOTATION_COLUMNS))
    assert read_annotations(tmp_path / "y.csv") == views
    assert [len(of_pair) for of_pair in group_by_pair("x", views)[0]] == [2, 1]
