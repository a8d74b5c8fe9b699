"""Tables of rated clips: means of several people, pairs and labels against counting, lines of what cannot be read."""

import csv
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from components.cli.main import app
from components.errors import BadInput
from components.preferences.columns import read_mapped
from components.preferences.ratings import is_ratings, read_ratings
from components.preferences.schema import read_annotations


def write(path, header, *rows):
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def refusal(*arguments, **named):
    with pytest.raises(BadInput) as caught:
        read_ratings(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_rows_of_one_clip_are_several_peoples(tmp_path):
    rows = [
        ["a.mp4", "a cat", "4", ""],
        ["b.mp4", "a cat", "2", "1"],
        ["./a.mp4", "a cat", "5", "3"],
        ["a.mp4", "a dog", "1", ""],
    ]
    rated = read_ratings(write(tmp_path / "x.csv", ["path", "prompt", "VQ", "MQ"], *rows))
    assert (rated.rows, rated.repeats, rated.paths) == ([2, 3, 5], 1, ["a.mp4", "b.mp4", "a.mp4"])
    assert rated.ratings["VQ"].tolist() == [4.5, 2, 1] and rated.ratings["MQ"].tolist()[:2] == [3, 1]
    assert math.isnan(rated.ratings["MQ"][2])
    assert rated.pairs() == [(1, 0)] and rated.labels("VQ", rated.pairs(), 0.0) == [-1]


@given(st.data())
def test_pairs_are_all_of_one_prompt_and_labels_follow_the_ratings(tmp_path_factory, data):
    count = data.draw(st.integers(1, 9))
    prompts = data.draw(st.lists(st.sampled_from(["a cat", "a dog"]), min_size=count, max_size=count))
    cell = st.one_of(st.just(""), st.integers(1, 5).map(str))
    ratings = data.draw(st.lists(st.tuples(cell, cell), min_size=count, max_size=count))
    margin = data.draw(st.sampled_from([0.0, 1.0]))
    rows = [[f"{n}.mp4", prompt, *of] for n, (prompt, of) in enumerate(zip(prompts, ratings, strict=True))]
    file = write(tmp_path_factory.mktemp("csv") / "x.csv", ["path", "prompt", "VQ", "MQ"], *rows)
    if not any(any(of) for of in ratings):
        assert "no clip has a rating" in refusal(file)
        return
    rated = read_ratings(file)
    pairs, expected = rated.pairs(), {}
    for a in range(count):
        for b in range(a + 1, count):
            known = [bool(ratings[a][k] and ratings[b][k]) for k in range(2)]
            if prompts[a] == prompts[b] and any(known):
                lead = [float(ratings[a][k]) - float(ratings[b][k]) if known[k] else None for k in range(2)]
                expected[a, b] = [None if d is None else 0 if abs(d) <= margin else 1 if d > 0 else -1 for d in lead]
    assert {tuple(sorted(pair)) for pair in pairs} == set(expected) and len(pairs) == len(expected)
    for k, name in enumerate(["VQ", "MQ"]):
        if name in rated.ratings:
            found = rated.labels(name, pairs, margin)
            for (a, b), label in zip(pairs, found, strict=True):
                same_sides = expected[min(a, b), max(a, b)][k]
                assert label == (same_sides if a < b or same_sides is None else -same_sides)


def test_sides_do_not_follow_the_order_of_the_file(tmp_path):
    """A file sorted by generator would make one of them A in every pair."""
    rows = [[f"{n}.mp4", "a cat", n] for n in range(6)]
    rated = read_ratings(write(tmp_path / "x.csv", ["path", "prompt", "rating"], *rows))
    labels = rated.labels("rating", rated.pairs(), 0.0)
    assert len(labels) == 15 and 6 <= labels.count(1) <= 9


def test_what_cannot_be_read_is_named(tmp_path):
    file = tmp_path / "x.csv"
    assert "no column of ratings: VQ, MQ, TA, Overall, rating" in refusal(write(file, ["path", "prompt", "SQ"]))
    assert "no rated clips" in refusal(write(file, ["path", "prompt", "VQ"]))
    assert "row 2, key 'VQ': 'good' is not a number" in refusal(write(file, ["path", "prompt", "VQ"], ["a", "x", "good"]))
    assert "row 2, key 'VQ': 'inf' is not a number" in refusal(write(file, ["path", "prompt", "VQ"], ["a", "x", "inf"]))
    assert "row 2, key 'path'" in refusal(write(file, ["path", "prompt", "VQ"], ["../a", "x", "1"]))
    assert "row 2, key 'prompt'" in refusal(write(file, ["path", "prompt", "VQ"], ["a", "", "1"]))
    models = write(file, ["path", "prompt", "VQ", "model"], ["a", "x", "1", "m1"], ["a", "x", "2", "m2"])
    assert "row 3, key 'model': the clip is of m1 in row 2" in refusal(models)
    assert "key 'VQ': no clip has a rating" in refusal(write(file, ["path", "prompt", "VQ"], ["a", "x", "NA"]))
    assert "'label' is no column that is read here" in refusal(file, mapped=read_mapped("label=VQ", None))
    assert (
        is_ratings(["path", "prompt", "VQ"]) and not is_ratings(["path_A", "path_B", "path"]) and not is_ratings(["prompt"])
    )


def test_from_ratings_writes_annotations_that_the_pipeline_reads(tmp_path):
    header = ["path", "prompt", "model", "SQ", "TQ", "Alignment"]
    rows = [
        ["a.mp4", "a cat", "m1", "3.67", "2", ""],
        ["b.mp4", "a cat", "m2", "3.33", "2", ""],
        ["c.mp4", "a cat", "", "", "1", "4"],
    ]
    file = write(tmp_path / "x.csv", header, *rows)
    out = tmp_path / "pairs.csv"

    def run(*options, code=0):
        result = CliRunner().invoke(app, ["annotate", "from-ratings", str(file), f"--out={out}", *options])
        assert result.exit_code == code, result.output
        return result.output if code == 0 else str(result.exception)

    said = run("--columns=VQ=SQ,MQ=TQ")
    assert "1 pairs of 3 clips; left out: 2 that are not rated in all of VQ, MQ" in said
    (view,) = read_annotations(out)
    assert (view.path_A, view.path_B, view.model_A) == ("b.mp4", "a.mp4", "m2")
    assert view.labels == {"VQ": -1, "MQ": 0, "TA": None, "Overall": None} and view.ratings_B["VQ"] == 3.67
    run("--columns=VQ=SQ,MQ=TQ", "--rating-margin=0.5")
    assert read_annotations(out)[0].labels["VQ"] == 0
    run("--columns=MQ=TQ")
    assert len(read_annotations(out)) == 3
    assert "no pair can be made" in run("--columns=VQ=SQ,TA=Alignment", code=1)
