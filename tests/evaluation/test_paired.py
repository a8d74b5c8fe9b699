"""Samples that do not pair: an error by name, or counted and left out where the user wants that."""

import pandas as pd
import pytest

from components.errors import BadInput
from components.evaluation.paired import missing_words, read_samples
from tests.evaluation.fixtures import METHODS, make_samples

GENERATORS = ["base", *METHODS]


@pytest.fixture
def folder(tmp_path):
    """data/samples of 4 prompts x 2 seeds."""
    make_samples(tmp_path, prompts=4, seeds=2)
    return tmp_path / "data/samples"


def read(folder, strict=True):
    return read_samples({name: folder / name for name in GENERATORS}, strict)


def rewrite(folder, method, change):
    file = folder / method / "samples.parquet"
    change(pd.read_parquet(file)).to_parquet(file)


def test_samples_of_all_generators_come_in_one_order(folder):
    rewrite(folder, "dpo", lambda table: table.iloc[::-1])
    found = read(folder)
    table = found.table
    keys = [list(zip(own["prompt_id"], own["seed"], strict=True)) for _, own in table.groupby("method", sort=False)]
    assert all(key == keys[0] for key in keys)
    assert (folder / "dpo" / "videos" / "000_0.mp4").as_posix() in set(table["video"])
    assert (found.wanted, found.compared, set(found.missing.values())) == (8, 8, {0})
    assert missing_words(found.as_json()) is None


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("dpo", lambda t: t.iloc[1:], r"dpo/samples.parquet, key '000, seed 0': no sample .* that base has"),
        ("base", lambda t: t.iloc[:-1], r"base/samples.parquet, key '003, seed 1': no sample .* that sft has"),
        ("rwr", lambda t: t.assign(prompt="another"), r"rwr/samples.parquet, key '000, seed 0': the prompt is not"),
        ("nrg", lambda t: pd.concat([t, t.iloc[:1]]), r"nrg/samples.parquet, key '000, seed 0': sampled twice"),
        ("sft", lambda t: t.iloc[:0], r"sft/samples.parquet: no samples"),
    ],
)
def test_unpaired_samples_are_named(folder, method, change, message):
    rewrite(folder, method, change)
    with pytest.raises(BadInput, match=message):
        read(folder)


def test_mismatched_seeds_are_named(folder):
    rewrite(folder, "dpo", lambda table: table.assign(seed=table["seed"] + 100))
    with pytest.raises(BadInput, match="that base has"):
        read(folder)


def test_a_missing_table_is_named(folder):
    (folder / "nrg/samples.parquet").unlink()
    with pytest.raises(BadInput, match=r"nrg/samples.parquet: missing"):
        read(folder)


def test_where_the_user_wants_it_what_all_have_is_compared_and_the_rest_counted(folder):
    rewrite(folder, "dpo", lambda table: table.iloc[1:])  # 000, seed 0
    rewrite(folder, "base", lambda table: table[table["prompt_id"] != "002"])
    found = read(folder, strict=False)
    for method, own in found.table.groupby("method"):
        keys = list(zip(own["prompt_id"], own["seed"], strict=True))
        assert keys == [("000", 1), ("001", 0), ("001", 1), ("003", 0), ("003", 1)]
        assert all(f"/{method}/" in video for video in own["video"])
    assert found.as_json() == {
        "wanted": 8,
        "compared": 5,
        "missing": {"base": 2, "sft": 0, "rwr": 0, "dpo": 1, "nrg": 0},
        "left_out": {"base": 1, "sft": 3, "rwr": 3, "dpo": 2, "nrg": 3},
    }
    words = missing_words(found.as_json(), {"dpo": "Flow-DPO"})
    assert words == (
        "Samples are missing: of 8 prompts and seeds, base lacks 2, Flow-DPO lacks 1. All figures are of the 5 that all"
        " generators have."
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(seed=t["seed"] + 100), "none of its prompts has samples of all generators"),
        (lambda t: t.assign(prompt="another"), r"dpo/samples.parquet, key '000, seed 0': the prompt is not"),
        (lambda t: pd.concat([t, t.iloc[:1]]), r"dpo/samples.parquet, key '000, seed 0': sampled twice"),
        (lambda t: t.iloc[:0], r"dpo/samples.parquet: no samples"),
    ],
)
def test_what_cannot_be_compared_stays_an_error(folder, change, message):
    rewrite(folder, "dpo", change)
    with pytest.raises(BadInput, match=message):
        read(folder, strict=False)
