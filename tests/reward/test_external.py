"""Rewards of scorers elsewhere: our gateway on a real port, in its own protocol and in UniRL's, and a program."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from components.alignment.relabel import label
from components.config.params import RelabelParams
from components.config.sources import SourceParams
from components.contracts import VIDEO_REWARD
from components.errors import BadInput, Unreachable
from components.files.tables import read_table, write_table
from components.reward import external_http
from components.reward.external import checked, source_scores
from components.reward.score import RewardModel
from components.schemas import CANDIDATES_SCHEMA, alignment_pairs_schema, candidate_scores_schema
from components.video.encode import write_video
from tests.conftest import BareStage
from tests.limits import LIMIT_PARAMS
from tests.reward.tiny import saved_model
from tests.serving.gateway.conftest import GOOD, VERSION, FakeTriton, running

CLIPS = [(f"{n}.mp4", f"prompt {n}") for n in range(5)]
PROGRAM = """
import csv, sys
*bad, clips, scores = sys.argv[1:]
rows = list(csv.DictReader(open(clips)))
with open(scores, "w") as out:
    out.write("clip,speed,reason\\n")
    for row in rows:
        last = row["prompt"][-1]
        out.write(f"{row['clip']},,too dark\\n" if last in bad else f"{row['clip']},{int(last) ** 2},\\n")
"""


class HereStage(BareStage):
    """Its state is in the working directory, and it has the params that a test gives it."""

    def __init__(self):
        self.folder, self.logged, self.said = Path("state"), [], []


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(external_http, "FIRST_WAIT", 0.01)
    Path("clips").mkdir()
    for name, _ in CLIPS:
        (Path("clips") / name).write_bytes(GOOD + name.encode())
    Path("program.py").write_text(PROGRAM)


def source(kind: str, place: str, **changes) -> SourceParams:
    given = {"reward": "videoalign" if kind == "unirl" else None, "dimensions": ["VQ", "TA"], "batch": 2}
    rest = {"attempts": 3, "seconds": 20.0, "key_variable": None}
    return SourceParams(kind=kind, place=place, **(given | rest | changes))


def program(*bad: str, **changes) -> SourceParams:
    command = " ".join([sys.executable, "program.py", *bad])
    return source("command", command, **{"dimensions": ["speed"]} | changes)


def scores_of(**sources: SourceParams):
    rows = pd.DataFrame(CLIPS, columns=["path", "prompt"])
    return source_scores(HereStage(), sources, rows, Path("clips"))


def normal(values) -> np.ndarray:
    return (np.array(values) - np.mean(values)) / np.std(values)


@pytest.mark.parametrize("kind", ["gateway", "unirl"])
def test_scores_of_a_service_are_normalised_and_stamped(kind, monkeypatch):
    triton = FakeTriton()
    expected = [triton.expected(GOOD + name.encode(), prompt) for name, prompt in CLIPS]
    with running(triton, token="sesame") as url:
        with pytest.raises(BadInput, match=r"relabel\.sources\.ours, key 'key_variable': .* TOKEN is empty"):
            scores_of(ours=source(kind, url, key_variable="TOKEN"))
        monkeypatch.setenv("TOKEN", "wrong")
        with pytest.raises(BadInput, match=r"refuses \(401\)"):
            scores_of(ours=source(kind, url, key_variable="TOKEN"))
        monkeypatch.setenv("TOKEN", "sesame")
        found = scores_of(ours=source(kind, url, key_variable="TOKEN"))
    assert list(found.values) == ["ours.VQ", "ours.TA"]
    for name in ("VQ", "TA"):
        np.testing.assert_allclose(found.values[f"ours.{name}"], normal([one[name] for one in expected]), rtol=1e-12)
    stamp = json.loads(found.stamp)["ours"]
    assert stamp["by"] == VERSION and stamp["kind"] == kind
    assert stamp["VQ"]["mean"] == pytest.approx(np.mean([one["VQ"] for one in expected]))
    assert scores_of(ours=source(kind, url, key_variable="TOKEN")).stamp == found.stamp, "kept: nobody answers now"


def test_a_clip_that_fails_is_no_score_and_the_others_are_asked_once():
    triton = FakeTriton()
    (Path("clips") / "3.mp4").write_bytes(b"no video")
    with running(triton) as url:
        for kind in ("gateway", "unirl"):
            with pytest.raises(BadInput, match=rf"3\.mp4: relabel\.sources\.{kind}: not a video"):
                scores_of(**{kind: source(kind, url)})
        (Path("clips") / "3.mp4").write_bytes(GOOD + b"3")
        triton.seen.clear()
        assert len(scores_of(gateway=source("gateway", url)).values["gateway.VQ"]) == 5
        assert {prompt for _, prompt in triton.seen} == {"prompt 2", "prompt 3", "prompt 4"}
    shutil.rmtree("state")
    with pytest.raises(BadInput, match=r"2\.mp4: relabel\.sources\.mine: too dark"):
        scores_of(mine=program("2"))
    np.testing.assert_allclose(scores_of(mine=program()).values["mine.speed"], normal([0, 1, 4, 9, 16]))


def test_a_service_that_is_gone_or_has_no_room():
    triton = FakeTriton()
    triton.missing = True
    with running(triton) as url:
        with pytest.raises(BadInput, match=r"0\.mp4: relabel\.sources\.ours: no answer from the server"):
            scores_of(ours=source("gateway", url))
        assert len(triton.seen) == 3 * 2, "each clip of the batch in each attempt"
    with pytest.raises(Unreachable, match=r"/score: no answer in 2 attempt\(s\): ConnectError"):
        scores_of(ours=source("unirl", url, attempts=2))


@pytest.mark.parametrize("value", [None, "1.0", True, float("nan"), float("inf")])
def test_what_is_no_finite_number_is_no_score(value):
    assert set(checked({"VQ": value, "by": "x"}, ["VQ"])) == {"reason"}
    assert set(checked({"by": "x"}, ["VQ"])) == {"reason"}
    assert checked({"VQ": 1, "MQ": value, "by": "x"}, ["VQ"]) == {"VQ": 1.0, "by": "x"}


def test_scores_that_are_all_alike_or_of_two_versions():
    with pytest.raises(BadInput, match=r"relabel\.sources\.mine, key 'speed': all clips score the same"):
        Path("program.py").write_text(PROGRAM.replace("int(last) ** 2", "7"))
        scores_of(mine=program())
    shutil.rmtree("state")
    triton = FakeTriton()
    with running(triton) as url:
        scores_of(ours=source("gateway", url))
        (file,) = Path("state").glob("source-ours-1-*.json")
        file.write_text(file.read_text().replace(VERSION, "another"))
        with pytest.raises(BadInput, match=f"scores of several versions: {VERSION}, another"):
            scores_of(ours=source("gateway", url))


def test_other_clips_of_one_stage_are_scored_anew():
    stage, rows = HereStage(), pd.DataFrame(CLIPS, columns=["path", "prompt"])
    for clips in (rows, rows.iloc[::-1]):
        found = source_scores(stage, {"mine": program()}, clips, Path("clips")).values["mine.speed"]
        np.testing.assert_allclose(found, normal([int(prompt[-1]) ** 2 for prompt in clips["prompt"]]))


def test_settings_that_do_not_fit():
    for kind, place, changes in (
        ("unirl", "http://host", {"reward": None}),
        ("gateway", "ftp://host", {}),
        ("gateway", "http://a:b@host", {}),
        ("command", "x", {"dimensions": ["a.b"]}),
        ("command", "x", {"dimensions": ["a", "a"]}),
    ):
        with pytest.raises(ValidationError):
            source(kind, place, **changes)
    with pytest.raises(BadInput, match="no such program: nothing_of_the_kind"):
        scores_of(mine=source("command", "nothing_of_the_kind"))


def test_pairs_by_the_weighted_sum_of_both():
    saved_model(Path(VIDEO_REWARD))
    rows = []
    for number, (name, prompt) in enumerate([*CLIPS[:2], (CLIPS[2][0], CLIPS[1][1])]):
        frames = np.random.default_rng(number).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
        write_video(Path("candidates") / name, frames, 8)
        row = {"candidate_id": f"c{number}", "prompt_id": "p", "prompt": prompt, "seed": number}
        rows.append(row | {"path": name, "row": number, "text_row": 0})
    rows[2]["prompt"] = "prompt 5"
    write_table("candidates/candidates.parquet", rows, CANDIDATES_SCHEMA)
    chosen = {"choose": "all_pairs", "min_margin": 0.0, "ties": "drop", "example_pairs": 1}
    params = RelabelParams(weights={"VQ": 1.0, "mine.speed": 3.0}, sources={"mine": program()}, **chosen)
    stage = HereStage()
    stage.params = SimpleNamespace(relabel=params, limits=LIMIT_PARAMS)
    scores, pairs, names = label(stage, Path("candidates"))
    assert names == ["VQ", "MQ", "TA", "mine.speed"] and len(pairs) == 3
    own = RewardModel.load(VIDEO_REWARD).score([(f"candidates/{row['path']}", row["prompt"]) for row in rows])
    speed = normal([0, 1, 25])
    for row, score, other in zip(scores, own, speed, strict=True):
        assert row["mine.speed"] == pytest.approx(other)
        assert row["reward"] == pytest.approx((score.normalised["VQ"] + 3 * other) / 4)
        assert json.loads(row["sources"])["mine"]["speed"]["mean"] == pytest.approx(26 / 3)
    write_table("scores.parquet", scores, candidate_scores_schema(names))
    write_table("pairs.parquet", pairs, alignment_pairs_schema(names))
    assert read_table("pairs.parquet")[0]["sources"] == scores[0]["sources"]
    assert "sources" not in candidate_scores_schema(["VQ"]).names, "as before without sources"

    params = params.model_copy(update={"weights": {"mine.colour": 1.0}})
    stage.params = SimpleNamespace(relabel=params, limits=LIMIT_PARAMS)
    with pytest.raises(BadInput, match=r"weights\.mine\.colour': the reward model has only VQ, MQ, TA, mine\.speed"):
        label(stage, Path("candidates"))
