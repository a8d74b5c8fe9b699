"""SIGKILL at seeded moments: of a promotion there is never half, nor a second champion; of `score --out` nothing is lost."""

import contextlib
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from components.cli.main import app
from components.config.params import load_params
from components.pipeline.mlflow_store import answering
from components.registry import promote as promote_module
from components.registry.promote import PENDING
from components.registry.versions import aliases, connect
from components.reward import score_files  # noqa: F401 - loaded once for all processes
from components.video.encode import write_video
from tests.registry.world import environment, make_checkout, random_model, register
from tests.reward.tiny import saved_model

pytestmark = pytest.mark.kill
MOMENTS = 20
MODEL = "reelign-smoke-video-reward"
# A server with all modules loaded, of which each process is a fork: it begins at once.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def weigh(client, challenger, champion, params, progress, anew):
    """The verdict is given: scoring is not what breaks."""
    made = {"model": challenger.model, "kind": "reward model", "made": "2026-01-01T00:00:00+00:00"}
    verdict = {"promote": True, "reasons": [], "gains": []}
    return made | {"challenger": challenger.as_json(), "verdict": verdict}, pd.DataFrame({"a": [1]})


def promote(folder: Path, said: Path) -> None:
    promote_module.weigh = weigh
    with open(said, "w", buffering=1) as out, contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(environment(MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db"))
        stack.enter_context(answering())
        client, quiet = connect(), lambda items, *_: items
        promote_module.promote(client, "video_reward", None, None, load_params(), False, None, quiet, print)


def score(folder: Path, out: Path, said: Path) -> None:
    files = [f"--csv={folder / 'list.csv'}", f"--model={folder / 'model'}", f"--out={out}", "--chunk=1"]
    result = CliRunner().invoke(app, ["score", *files])
    said.write_text(str(result.exception))
    sys.exit(1 if result.exception else 0)


def start(function, *given) -> multiprocessing.Process:
    process = PROCESSES.Process(target=function, args=given)
    process.start()
    return process


def lasted(process: multiprocessing.Process) -> float:
    """Seconds until a process ended well."""
    begun = time.monotonic()
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - begun


def killed(process: multiprocessing.Process, after: float) -> bool:
    process.join(after)
    if process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def test_a_promotion_that_is_killed_is_whole_or_not_at_all(tmp_path, in_repository, monkeypatch):
    """After each kill two calls at once finish it, one after the other."""
    monkeypatch.chdir(make_checkout(tmp_path))
    draw, kills, halves, said = random.Random(0), 0, 0, [tmp_path / "said0", tmp_path / "said1"]
    with environment(MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db"):
        model = random_model(tmp_path / "random")
        register(model)
        client = connect()
        lasted(start(promote, tmp_path, said[0]))
        register(model)
        took = lasted(start(promote, tmp_path, said[0]))  # without the server's start
        for _ in range(MOMENTS):
            register(model)
            number, before = aliases(client, MODEL)["challenger"], aliases(client, MODEL)["champion"]
            kills += killed(start(promote, tmp_path, said[0]), draw.uniform(0.3, 1.0) * took)
            decided = PENDING in client.get_registered_model(MODEL).tags
            halves += decided
            named = aliases(client, MODEL)
            assert named["champion"] in (before, number)
            if named["champion"] == number and not decided:
                assert named == {"champion": number} and "promotion.made" in client.get_model_version(MODEL, number).tags
            for process in [start(promote, tmp_path, file) for file in said]:
                lasted(process)
            told = "".join(file.read_text() for file in said)
            assert told.count(f"{MODEL}/{number} is champion, after {before}") <= 1
            assert aliases(client, MODEL) == {"champion": number}
            assert PENDING not in client.get_registered_model(MODEL).tags
    print(f"{kills} of {MOMENTS} killed before their end, {halves} after the decision")


def test_scoring_that_is_killed_goes_on_and_no_two_make_one_table(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(24):
        write_video(tmp_path / f"{number}.mp4", rng.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8), fps=8)
    pd.DataFrame({"path": [f"{n}.mp4" for n in range(24)], "prompt": "a cat"}).to_csv(tmp_path / "list.csv", index=False)
    saved_model(tmp_path / "model")
    whole, out, draw, said = tmp_path / "whole.parquet", tmp_path / "out.parquet", random.Random(0), tmp_path / "said"
    lasted(start(score, tmp_path, whole, said))
    whole.unlink()
    took = lasted(start(score, tmp_path, whole, said))
    kills = done = 0
    for _ in range(MOMENTS):
        kept = len(list(tmp_path.glob("out.parquet.partial/*/chunk-*.json")))
        if killed(start(score, tmp_path, out, said), draw.uniform(0.2, 0.9) * took):
            kills += 1
            assert out.exists() or len(list(tmp_path.glob("out.parquet.partial/*/chunk-*.json"))) >= kept
        else:
            done += 1
            assert out.exists()
        if out.exists():  # also of one that was killed between its table and its end
            assert out.read_bytes() == whole.read_bytes()
            out.unlink()
    both = [start(score, tmp_path, out, tmp_path / f"said{number}") for number in range(2)]
    for number, process in enumerate(both):
        process.join()
        told = (tmp_path / f"said{number}").read_text()
        assert process.exitcode == 0 or told.startswith(f"{out}: is being written by ")
    assert 0 in [process.exitcode for process in both]
    assert out.read_bytes() == whole.read_bytes() and not list(tmp_path.glob("*.partial"))
    print(f"{kills} of {MOMENTS} killed before their end, {done} finished")
