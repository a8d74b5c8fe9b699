"""The same command twice at once: the second ends in one line before it has done anything; nothing is overwritten."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from components.files.locks import sole_writer
from components.generator.families.wan_small import save_generator
from components.video.encode import write_video
from tests.conftest import REPOSITORY
from tests.generator.small import tiny_generator
from tests.reward.tiny import saved_model

WAIT = 120.0  # seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Models and clips, as commands take them."""
    here = tmp_path_factory.mktemp("twice")
    (here / "params.yaml").write_text((REPOSITORY / "infra/profiles/smoke.yaml").read_text())
    saved_model(here / "model")
    save_generator(tiny_generator(), here / "generator")
    for n in range(40):
        write_video(here / f"{n}.mp4", np.random.default_rng(n).integers(0, 255, (9, 32, 32, 3), dtype=np.uint8), 8)
    rows = [f"{n}.mp4,a red circle" for n in range(40)]
    (here / "list.csv").write_text("\n".join(["path,prompt", *rows]) + "\n")
    return here


COMMANDS = {
    "score": ("score", "--csv", "list.csv", "--model", "model", "--chunk", "1", "--out", "out/scores.csv"),
    "generate": ("generate", "--prompt", "a red circle", "--generator", "generator", "--count", "20", "--out", "out/clips"),
}
OUTPUTS = {"score": "out/scores.csv", "generate": "out/clips"}


def start(folder: Path, *words: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def under_way(folder: Path, *words: str, lock: Path):
    """A process that runs, stopped in the middle of its work so that it does not end meanwhile."""
    first = start(folder, *words)
    try:
        deadline = time.monotonic() + WAIT
        while not (lock.exists() and lock.read_text()):
            assert first.poll() is None and time.monotonic() < deadline, first.communicate()
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)
        yield first
    finally:
        first.kill()
        first.communicate()


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and ".lock" not in path.name
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_of_two_commands_with_one_output_the_second_ends_at_once(folder, name):
    output = folder / OUTPUTS[name]
    words = ("components.cli.main", *COMMANDS[name])
    with under_way(folder, *words, lock=output.with_name(f".{output.name}.lock")) as first:
        before = content(folder / "out")
        second = start(folder, *words)
        said, error = second.communicate(timeout=WAIT)
        assert second.returncode == 2 and said == ""
        assert error.startswith(f"error: {output}: is being written by process {first.pid}, main.py {name} "), error
        assert error.count("\n") == 1 and content(folder / "out") == before
        first.kill()
        first.wait()
        with sole_writer(output):  # what a killed process held is free
            pass


def test_clips_that_another_process_has_just_drawn_are_not_overwritten(folder):
    """Whether a clip is there is looked up while no other process draws to the folder."""
    words = ("components.cli.main", *COMMANDS["generate"][:-1], "out/again", "--count", "1")
    both = [start(folder, *words) for _ in range(2)]
    ended = sorted((process.communicate(timeout=WAIT)[1], process.returncode) for process in both)
    assert [code for _, code in ended] == [0, 2], ended
    assert "is being written by" in ended[1][0] or "exists already; --overwrite" in ended[1][0]


def test_a_stage_that_runs_in_a_folder_does_not_run_there_twice(folder):
    """Both would build the same outputs at the same place."""
    for name in ("dvc.yaml", "dvc.lock"):
        (folder / name).write_text((REPOSITORY / name).read_text())
    with sole_writer(folder / ".reelign/partial/pairs"):
        second = start(folder, "components.preferences.pairs")
        _, error = second.communicate(timeout=WAIT)
    assert second.returncode == 2 and error.count("\n") == 1, error
    assert error.startswith(f"error: {folder}/.reelign/partial/pairs: is being written by process {os.getpid()}, ")
