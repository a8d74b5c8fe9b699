"""SIGKILL at seeded moments: of a promotion there is never half, nor a second champion; of `score --out` nothing is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.registry.promote import PENDING
from components.registry.versions import aliases, connect
from components.video.encode import write_video
from tests.conftest import REPOSITORY
from tests.registry.world import environment, make_checkout, random_model, register
from tests.reward.tiny import saved_model

MOMENTS = 20
MODEL = "reelign-smoke-video-reward"
# The verdict is given: scoring is not what breaks. What it writes from there on takes most of its time.
PROMOTE = """
import pandas as pd
from components.mlflow_store import answering
from components.params import load_params
from components.registry import promote as module
from components.registry.versions import connect

def weigh(client, challenger, champion, params, progress, anew):
    made = {"model": challenger.model, "kind": "reward model", "made": "2026-01-01T00:00:00+00:00"}
    verdict = {"promote": True, "reasons": [], "gains": []}
    return made | {"challenger": challenger.as_json(), "verdict": verdict}, pd.DataFrame({"a": [1]})

module.weigh = weigh
with answering():
    client = connect()
    print("begins", flush=True)
    module.promote(client, "video_reward", None, None, load_params(), False, None, lambda items, *_: items, print)
"""


def start(*words: str, **more) -> subprocess.Popen:
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *words], env=variables, text=True, **more)


@pytest.mark.registry
def test_a_promotion_that_is_killed_is_whole_or_not_at_all(tmp_path, in_repository, monkeypatch):
    monkeypatch.chdir(make_checkout(tmp_path))
    draw, killed = random.Random(0), 0
    with environment(MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db"):
        model = random_model(tmp_path / "random")
        register(model)
        client = connect()
        begun = time.monotonic()
        assert promoted(start("-c", PROMOTE, stdout=subprocess.PIPE))  # how long it takes
        took = time.monotonic() - begun
        for _ in range(MOMENTS):
            register(model)
            number, before = aliases(client, MODEL)["challenger"], aliases(client, MODEL)["champion"]
            run = start("-c", PROMOTE, stdout=subprocess.PIPE)
            run.stdout.readline()
            time.sleep(draw.uniform(0, 0.7 * took))
            run.kill()
            killed += run.wait() == -signal.SIGKILL
            decided = PENDING in client.get_registered_model(MODEL).tags
            named = aliases(client, MODEL)
            assert named["champion"] in (before, number)
            if named["champion"] == number and not decided:  # killed as it ended: all is done
                assert named == {"champion": number} and "promotion.made" in client.get_model_version(MODEL, number).tags
            both = [start("-c", PROMOTE, stdout=subprocess.PIPE) for _ in range(2)]  # at once
            said = [one.communicate()[0] for one in both]
            assert [one.returncode for one in both] == [0, 0]
            assert "".join(said).count(f"{MODEL}/{number} is champion, after {before}") <= 1
            assert aliases(client, MODEL) == {"champion": number}
            assert PENDING not in client.get_registered_model(MODEL).tags
    print(f"{killed} of {MOMENTS} were killed in time")


def promoted(run: subprocess.Popen) -> bool:
    return "is champion" in run.communicate()[0]


@pytest.mark.registry
def test_scoring_that_is_killed_goes_on_and_no_two_make_one_table(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(24):
        write_video(tmp_path / f"{number}.mp4", rng.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8), fps=8)
    pd.DataFrame({"path": [f"{n}.mp4" for n in range(24)], "prompt": "a cat"}).to_csv(tmp_path / "list.csv", index=False)
    saved_model(tmp_path / "model")

    def score(out: Path) -> subprocess.Popen:
        files = [f"--csv={tmp_path / 'list.csv'}", f"--model={tmp_path / 'model'}", f"--out={out}", "--chunk=1"]
        return start("-m", "components.cli", "score", *files, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    whole, out, draw = tmp_path / "whole.parquet", tmp_path / "out.parquet", random.Random(0)
    begun = time.monotonic()
    assert score(whole).wait() == 0
    took = time.monotonic() - begun
    moments = 0
    while moments < MOMENTS:
        run = score(out)
        time.sleep(draw.uniform(0.4, 1.05) * took)
        run.kill()
        moments += 1
        if run.wait() == 0:
            assert out.read_bytes() == whole.read_bytes()
            out.unlink()
        assert not out.exists()
    first, second = score(out), score(out)
    errors = [run.communicate()[1] for run in (first, second)]
    assert sorted((first.returncode, second.returncode)) in ([0, 0], [0, 2])
    for run, said in zip((first, second), errors, strict=True):
        assert run.returncode == 0 or "another run is making it" in said
    assert out.read_bytes() == whole.read_bytes() and not list(tmp_path.glob("*.partial"))
