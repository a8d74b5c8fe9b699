"""Shared by all tests: the repository is the working directory; a stage that needs no dvc.yaml."""

import gc
import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from components.config.params import load_params
from components.pipeline.stage import Stage

REPOSITORY = Path(__file__).parents[1]


def pytest_terminal_summary(terminalreporter, exitstatus):
    files = (REPOSITORY / name for name in ("params.yaml", "infra/profiles/shapes.yaml"))
    params, shapes = (file.read_text() for file in files)
    if exitstatus == pytest.ExitCode.TESTS_FAILED and params != shapes:
        line = "params.yaml is not profile shapes, which the tests expect: `reelign profile shapes` puts it in place"
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


class BareStage:
    """What `fit`, `draw` and `draw_samples` use of a Stage, with a folder of the test for its state."""

    name = "test"

    def __init__(self, folder: Path):
        self.params = load_params()
        self.folder = folder
        self.logged: list[tuple[dict, int | None]] = []
        self.said: list[str] = []

    def state(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder

    def seed(self, *key: object) -> int:
        return sum(ord(letter) for letter in str(key))

    shared_seed, shared_rng = Stage.shared_seed, Stage.shared_rng

    def rng(self, *key: object) -> np.random.Generator:
        return np.random.default_rng(self.seed(*key))

    def progress(self, items, what, total=None):
        return iter(items)

    def log(self, metrics, step=None):
        self.logged.append((metrics, step))

    def say(self, text):
        self.said.append(text)


@pytest.fixture
def bare_stage(tmp_path):
    return BareStage(tmp_path / "state")


@pytest.fixture
def four_threads():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def pytest_collection_finish():
    """Modules stay to the end: collections of garbage, which each encoding of prompts ends with, leave them out."""
    gc.collect()
    gc.freeze()


def pytest_configure():
    hypothesis.settings.register_profile("tests", deadline=None)  # a busy machine is no failure
    hypothesis.settings.load_profile("tests")
    os.environ.setdefault("OMP_NUM_THREADS", "2")
