"""`reelign bench-reward`: figures of planted scores against plain counting, scores from a table, a killed run goes on."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from components.cli.main import app
from components.errors import BadInput
from components.files.locks import sole_writer
from components.pipeline.stage import folder_digest
from components.reward.benchmark import evaluate
from components.reward.layouts import read_benchmark
from components.reward.metrics import calibration, pair_metrics
from components.reward.model_files import ModelFiles
from components.reward.scored import find_scores, read_scores
from components.video.encode import write_video
from tests.conftest import REPOSITORY
from tests.reward.tiny import saved_model

DIMENSIONS = ["VQ", "MQ", "TA"]
VOTES = {"leftvote": 1, "rightvote": -1, "tievote": 0, "bothbad_vote": 0}
TEXT = {1: "A", -1: "B", 0: "same"}
NO_MODEL = ModelFiles("nowhere", None, -1)
CLIPS = 30


def write(path, header, rows):
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def videogen(path, rows):
    return write(path, ["path_A", "path_B", "A_model", "B_model", "prompt", "VQ", "MQ", "TA", "Overall"], rows)


def planted(path, items, scores, **origin):
    """A table as `reelign score --out` writes it. scores: [N, D] of `items`, normalised."""
    origin = {"status": "ok", "reason": None, "reward_model": "0123456789abcdef", "frame_plan": "2fps"} | origin
    names = DIMENSIONS[: scores.shape[1]]
    table = pd.DataFrame(items, columns=["path", "prompt"]).assign(**origin)
    table[names], table[[f"raw_{name}" for name in names]] = scores, 3 + 2 * scores
    table["Overall"] = scores.sum(1)
    table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, index=False)
    return path


def bench(*arguments, code=0):
    result = CliRunner().invoke(app, ["bench-reward", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output if code == 0 else str(result.exception)


def refusal(*arguments):
    return bench(*arguments, code=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, 30 clips, and pairs.csv in which one clip comes with two prompts."""
    folder = tmp_path_factory.mktemp("bench")
    saved_model(folder / "model")
    for number in range(CLIPS):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
        write_video(folder / f"{number}.mp4", pixels, fps=8)
    rows = [(f"{n}.mp4", f"{n + 1}.mp4", "m1", "m2", "a cat", *"AABA") for n in range(CLIPS - 1)]
    videogen(folder / "pairs.csv", [*rows, ("0.mp4", "1.mp4", "m1", "m3", "a dog", *"BABB")])
    return folder


@pytest.fixture(scope="module")
def scored(folder):
    bench(*arguments(folder, folder / "scored"))
    return folder / "scored"


def arguments(folder, out):
    return [folder / "pairs.csv", f"--videos={folder}", f"--model={folder / 'model'}", "--chunk=1", f"--out={out}"]


def figures_of(out):
    return json.loads((out / "figures.json").read_text())


def test_planted_scores_give_their_accuracies():
    table = pd.DataFrame(
        {
            "prompt": list("abcd"), "model_A": ["m1"] * 4, "model_B": ["m2", "m2", "m3", "m3"],
            "VQ_label": pd.array([1, -1, 1, 0], dtype="Int64"),
            "VQ_score_A": [2.0, 0.0, 0.0, 0.1], "VQ_score_B": [0.0, 1.0, 3.0, 0.0],
        }
    )  # fmt: skip
    result = pair_metrics(table, ["VQ"], {"VQ": 0.2}, "validation", 20)
    entry = result["dimensions"]["VQ"]
    assert entry["accuracy_without_ties"]["value"] == pytest.approx(2 / 3)
    assert entry["accuracy_with_ties"]["value"] == 0.75 and entry["accuracy_with_ties"]["tie_threshold"] == 0.2
    assert result["generators"]["VQ"]["m2"] == {"accuracy_without_ties": 1.0, "n": 2}
    assert result["generators"]["VQ"]["m3"] == {"accuracy_without_ties": 0.0, "n": 1}


def test_calibration_finds_the_slope_that_labels_were_drawn_with():
    rng = np.random.default_rng(0)
    differences = rng.normal(0, 1, 40_000)
    labels = np.where(rng.random(40_000) < 1 / (1 + np.exp(-2 * differences)), 1, -1)
    found = calibration(labels, differences)
    assert found["slope"] == pytest.approx(2, rel=0.05) and found["error"] < 0.01
    assert [b["n"] for b in found["bins"]] == [4000] * 10


def counted(labels, a, b, threshold):
    """Right answers with ties, one by one."""
    said = [0 if abs(x - y) <= threshold else 1 if x > y else -1 for x, y in zip(a, b, strict=True)]
    return sum(s == label for s, label in zip(said, labels, strict=True)) / len(labels)


def check_entry(result, question, labels, a, b, models):
    """The figures of one question against counting, thresholds fitted on the pairs."""
    entry, decided = result["dimensions"][question], [n for n, label in enumerate(labels) if label]
    right = {n: a[n] > b[n] if labels[n] == 1 else a[n] < b[n] for n in decided}
    without = entry["accuracy_without_ties"]
    assert without["n"] == len(decided)
    assert without["value"] == (pytest.approx(np.mean(list(right.values()))) if decided else None)
    best = max(counted(labels, a, b, t) for t in [0.0, *(abs(x - y) for x, y in zip(a, b, strict=True))])
    assert entry["accuracy_with_ties"]["value"] == pytest.approx(best)
    assert entry["accuracy_with_ties"]["threshold_from"] == "test"
    for name in {name for pair in models for name in pair}:
        mine = [right[n] for n in decided if name in models[n]]
        expected = {"accuracy_without_ties": pytest.approx(np.mean(mine)) if mine else None, "n": len(mine)}
        assert result["generators"][question][name] == expected


# Scores with many equal ones, whose differences are exact.
score = st.integers(-4, 4).map(lambda quarters: quarters / 4)
row = st.tuples(
    *[st.sampled_from([1, -1, 0])] * 4,
    st.sampled_from(list(VOTES)),
    st.sampled_from([("m1", "m2"), ("m1", "m3"), ("m2", "m3")]),
    *[st.tuples(score, score, score)] * 2,
)


@settings(max_examples=25)
@given(st.lists(row, min_size=1, max_size=12), st.sampled_from([*DIMENSIONS, "Overall"]))
def test_protocols_of_the_three_layouts_are_plain_counting(rows, answer):
    *labels, votes, models, a, b = map(list, zip(*rows, strict=True))
    of = dict(zip([*DIMENSIONS, "Overall"], labels, strict=True))
    a, b = np.array(a), np.array(b)
    values = {name: (a[:, place], b[:, place]) for place, name in enumerate(DIMENSIONS)}
    values["Overall"] = a.sum(1), b.sum(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        items = [(f"{n}{side}.mp4", "a cat") for side in "ab" for n in range(len(rows))]
        table = planted(folder / "scores.csv", items, np.concatenate([a, b]))

        def run(csv, answer=None):
            pairs = read_benchmark(csv, DIMENSIONS, answer)
            found = find_scores(pairs, table, read_scores(table), None)
            _, result = evaluate(pairs, found, NO_MODEL, "test", rounds=2)
            assert result["pairs"] == len(rows) and result["csv_digest"] == folder_digest(csv)
            assert "fitted on these very pairs" in result["protocol"]["tie_threshold"]
            return result

        given = [[TEXT[of[name][n]] for name in of] for n in range(len(rows))]
        result = run(videogen(folder / "v.csv", [(f"{n}a.mp4", f"{n}b.mp4", *models[n], "a cat", *given[n])
                                                 for n in range(len(rows))]))  # fmt: skip
        for question in of:
            check_entry(result, question, of[question], *values[question], models)
        assert result["protocol"]["answered_by"] == {question: question for question in of}

        header = ["prompt", "left_video", "right_video", "left_model", "right_model", "vote_type"]
        lines = [("a cat", f"{n}a.mp4", f"https://hub/{n}b.mp4", *models[n], votes[n]) for n in range(len(rows))]
        result = run(write(folder / "g.csv", header, lines))
        check_entry(result, "preference", [VOTES[vote] for vote in votes], *values["TA"], models)
        protocol = result["protocol"]
        assert (protocol["answered_by"], protocol["answered_by_in_paper"]) == ({"preference": "TA"}, "TA")
        assert protocol["labels"]["preference"] == {vote: votes.count(vote) for vote in set(votes)}
        assert protocol["labels_read_as"]["bothbad_vote"] == "same" and protocol["published_pairs"] == 1891

        header = ["path_A", "path_B", "prompt", "model_A", "model_B", "label"]
        lines = [(f"{n}a.mp4", f"{n}b.mp4", "a cat", *models[n], TEXT[of["VQ"][n]]) for n in range(len(rows))]
        result = run(write(folder / "o.csv", header, lines), answer)
        check_entry(result, "preference", of["VQ"], *values[answer], models)
        assert result["protocol"]["answered_by"] == {"preference": answer}


def test_command_on_real_files(folder, scored):
    made = {"figures.json", "pairs.csv", "calibration.png", "differences.png", "scores.parquet"}
    assert {path.name for path in scored.iterdir()} == made
    result = figures_of(scored)
    assert result["dimensions"]["Overall"]["accuracy_without_ties"]["n"] == CLIPS
    assert result["dimensions"]["VQ"]["accuracy_with_ties"]["tie_threshold"] == 0.1  # the model's own
    assert result["protocol"]["tie_threshold"] == "the model's own, fitted on its validation pairs"
    assert result["model_version"] == folder_digest(folder / "model")
    table = pd.read_parquet(scored / "scores.parquet")
    assert len(table) == CLIPS + 2 and not table.duplicated(["path", "prompt"]).any()
    pairs = pd.read_csv(scored / "pairs.csv")
    assert pairs.VQ_score_A[0] == table.set_index(["path", "prompt"]).VQ["0.mp4", "a cat"]
    assert pairs.TA_score_A[0] != pairs.TA_score_A[CLIPS - 1], "the same clip, another prompt"


def test_scores_of_a_table_give_the_same_figures(folder, scored, tmp_path):
    """The run's own table, and one of `reelign score` under other paths."""
    rest = [f"--model={folder / 'model'}", f"--out={tmp_path / 'out'}"]
    bench(folder / "pairs.csv", f"--scores={scored / 'scores.parquet'}", *rest)
    for name in ("figures.json", "pairs.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (scored / name).read_bytes()
    assert not (tmp_path / "out" / "scores.parquet").exists()

    table = pd.read_parquet(scored / "scores.parquet")
    table.path = [str(folder / path) for path in table.path]
    pd.concat([table, table[:3]]).to_csv(tmp_path / "scores.csv", index=False)  # twice the same score is no harm
    bench(folder / "pairs.csv", f"--scores={tmp_path / 'scores.csv'}", f"--videos={folder}", *rest)
    assert (tmp_path / "out" / "figures.json").read_bytes() == (scored / "figures.json").read_bytes()


def test_a_table_that_is_not_of_these_pairs_is_refused(folder, scored, tmp_path):
    good, file = pd.read_parquet(scored / "scores.parquet"), tmp_path / "scores.parquet"
    rest = [f"--scores={file}", f"--model={folder / 'model'}", f"--out={tmp_path / 'out'}"]

    def why(table, *options):
        table.to_parquet(file, index=False)
        return refusal(folder / "pairs.csv", *rest, *options)

    place = good.index[(good.path == "1.mp4") & (good.prompt == "a cat")][0]
    found = why(good.drop(place))
    assert "pairs.csv, row 2, key 'path_B': 1.mp4 has no row with this prompt in" in found and str(file) in found
    failed = good.assign(status=["failed" if n == place else "ok" for n in good.index])
    found = why(failed.assign(reason="torn"))  # the row still has its numbers, which are not to be read
    assert "pairs.csv, row 2, key 'path_B': failed in" in found and f"row {place}: torn" in found
    for bad, text in ((np.nan, "None"), (np.inf, "inf")):
        found = why(good.assign(TA=[bad if n == place else score for n, score in enumerate(good.TA)]))
        assert f"row {place}, key 'TA': status ok, but '{text}' is not a finite number" in found
    found = why(good.assign(reward_model=["x", *good.reward_model[1:]]))
    assert "row 1, key 'reward_model'" in found and "'x' in row 0" in found
    found = why(good.assign(frame_plan=["8fps", *good.frame_plan[1:]]))
    assert "row 1, key 'frame_plan'" in found
    found = why(pd.concat([good, good[:1].assign(VQ=7.0)]))
    assert f"row {len(good)}, key 'path': has another score for this prompt in row 0" in found
    assert "no row has a score" in why(good.assign(status="failed"))
    assert "key 'Overall': missing column" in why(good.drop(columns="Overall"))
    assert "the scores are of x" in why(good.assign(reward_model="x"))
    assert "no --engine" in why(good, "--workers=2")
    assert not (tmp_path / "out").exists(), "nothing is written by any of these"
    good.assign(reward_model="x").to_parquet(file, index=False)
    one = write(tmp_path / "x.csv", ["path_A", "path_B", "prompt", "label"], [("0.mp4", "1.mp4", "a dog", "same")])
    said = bench(one, *rest, "--threshold-from=test", "--model=nowhere", "--answer=MQ").splitlines()
    assert said[0] == "columns of the one-label layout: 1 pairs" and said[1] == "answered: preference by MQ"
    figures = figures_of(tmp_path / "out")
    assert figures["model_version"] == "x"
    told = json.loads(bench(one, *rest, "--threshold-from=test", "--model=nowhere", "--answer=MQ", "--json"))
    assert told["pairs"] == 1 and told["dimensions"] == figures["dimensions"] and told["protocol"] == figures["protocol"]
    assert str(tmp_path / "out/figures.json") in told["files"]


def test_a_video_is_looked_for_below_videos_first(tmp_path):
    file = write(tmp_path / "pairs.csv", ["path_A", "path_B", "prompt", "label"], [("a.mp4", "b.mp4", "a cat", "A")])
    pairs = read_benchmark(file, DIMENSIONS)
    items = [("a.mp4", "a cat"), ("b.mp4", "a cat"), (f"{tmp_path}/v/./a.mp4", "a cat")]
    table = planted(tmp_path / "scores.csv", items, np.arange(9.0).reshape(3, 3))
    found = find_scores(pairs, table, read_scores(table), tmp_path / "v")
    assert [found.values["VQ"][found.places[path, "a cat"]] for path in ("a.mp4", "b.mp4")] == [6.0, 3.0]


def test_missing_and_broken_videos_are_named(folder, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("0.mp4", "1.mp4"):
        (videos / name).write_bytes((folder / name).read_bytes())
    rows = [(*pair, "m1", "m2", "a cat", *"AABA") for pair in (("0.mp4", "1.mp4"), ("1.mp4", "2.mp4"))]
    csv, out = videogen(tmp_path / "x.csv", rows), tmp_path / "out"
    command = [csv, f"--videos={videos}", f"--model={folder / 'model'}", f"--out={out}"]
    found = refusal(*command)
    assert "x.csv, row 3, key 'path_B'" in found and "2.mp4: no such file" in found and not out.exists()
    (videos / "2.mp4").write_text("no video")
    found = refusal(*command)
    assert "x.csv, row 3, key 'path_B'" in found and "2.mp4" in found
    # What was scored is kept, in a table that says what failed; figures there are none.
    table = pd.read_parquet(out / "scores.parquet").set_index("path")
    assert table.status.to_dict() == {"0.mp4": "ok", "1.mp4": "ok", "2.mp4": "failed"} and np.isnan(table.VQ["2.mp4"])
    assert not (out / "figures.json").exists()
    assert "give --videos, or --scores" in refusal(csv, f"--model={folder / 'model'}")


def test_a_killed_run_goes_on(folder, scored, tmp_path):
    """SIGKILL of the command amidst its chunks: the next run takes those that are done as they are."""
    out = tmp_path / "out"
    line = [sys.executable, "-m", "components.cli.main", "bench-reward", *map(str, arguments(folder, out))]
    run = subprocess.Popen(line, env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "2"})
    try:
        while len(done := sorted(out.glob("scores.parquet.partial/*/chunk-*.json"))) < 3:
            assert run.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    left = list(out.glob("scores.parquet.partial/*/chunk-*.json"))
    assert 3 <= len(left) < CLIPS
    assert {path.name for path in out.iterdir()} == {".scores.parquet.lock", "scores.parquet.partial"}
    # A score that was tampered with comes through: its chunk was not done again.
    done[0].write_text(re.sub(r'"overall": [-+.0-9e]+', '"overall": 1234.5', done[0].read_text(), count=1))
    bench(*arguments(folder, out))
    expected = pd.read_parquet(scored / "scores.parquet")
    expected.loc[(expected.path == "0.mp4") & (expected.prompt == "a cat"), "Overall"] = 1234.5
    pd.testing.assert_frame_equal(pd.read_parquet(out / "scores.parquet"), expected, rtol=1e-4, atol=1e-5)
    assert figures_of(out)["pairs"] == figures_of(scored)["pairs"] and not list(out.glob("*.partial"))


def test_a_table_that_another_command_writes_is_left_to_it(folder, tmp_path):
    """`reelign score --out` locks the table alone, and not its folder."""
    with sole_writer(tmp_path / "out/scores.parquet"):
        assert "out/scores.parquet: is being written by process" in refusal(*arguments(folder, tmp_path / "out"))


def test_a_file_that_fits_no_layout_is_one_line(tmp_path, scored):
    file = write(tmp_path / "x.csv", ["video1", "video2", "prompt", "winner"], [])
    with pytest.raises(
        BadInput, match=r"row 1: no layout of pairs: the header lacks path_A, path_B, VQ or MQ or TA or Overall for VideoGen"
    ):
        read_benchmark(file, DIMENSIONS)
    assert "no layout of pairs" in refusal(file, f"--scores={scored / 'scores.parquet'}")


def test_ratings_are_correlated_with_the_scores_that_answer_them(tmp_path):
    """Planted: VQ follows its ratings, MQ goes against them, and Overall has none."""
    rng = np.random.default_rng(0)
    items = [(f"{n}.mp4", f"prompt {n % 8}") for n in range(40)]
    ratings = rng.integers(1, 6, (40, 2)).astype(float)
    scores = np.stack([ratings[:, 0], -ratings[:, 1], rng.normal(size=40)], axis=1)
    table = planted(tmp_path / "scores.parquet", items, scores)
    rows = [
        (path, prompt, of[0], "" if n == 3 else of[1])
        for n, ((path, prompt), of) in enumerate(zip(items, ratings, strict=True))
    ]
    file = write(tmp_path / "ratings.csv", ["clip", "prompt", "quality", "motion"], rows)
    given = [file, f"--scores={table}", "--threshold-from=test", "--rounds=50", "--columns=path=clip,VQ=quality,MQ=motion"]
    said = bench(*given, f"--out={tmp_path / 'out'}").splitlines()
    assert said[0].startswith("columns of rated clips: 80 pairs")
    assert said[3].startswith("VQ, across 40 clips of 8 prompts: spearman 1.000 [1.000, 1.000], kendall 1.000")
    assert said[6].startswith("MQ, within prompts, the mean of 8 prompts, 39 clips: spearman -1.000")
    found = figures_of(tmp_path / "out")
    assert found["correlations"]["MQ"]["across"]["kendall"]["value"] == pytest.approx(-1)
    without = {name: entry["accuracy_without_ties"] for name, entry in found["dimensions"].items()}
    assert (without["VQ"]["value"], without["MQ"]["value"]) == (1, 0)
    apart = sum(abs(a[0] - b[0]) > 1 for n, a in enumerate(ratings) for b in ratings[n + 8 :: 8])
    bench(*given, f"--out={tmp_path / 'out'}", "--rating-margin=1")
    assert figures_of(tmp_path / "out")["dimensions"]["VQ"]["accuracy_without_ties"]["n"] == apart < without["VQ"]["n"]
    (tmp_path / "few.csv").write_text("path,prompt,rating\n0.mp4,prompt 0,1\n1.mp4,prompt 1,2\n")
    said = bench(tmp_path / "few.csv", *given[1:4], f"--out={tmp_path / 'few'}")
    assert "columns of rated clips: 0 pairs" in said and "n=2 prompts: too few for an interval" in said
