"""A checkout of the smoke profile and its finished run, made once for all processes of a test run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.planted import SECRETS

REPOSITORY = Path(__file__).parents[2]
METRICS = ("source", "pairs", "reward_bench", "base_generator", "latent_reward", "alignment")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """The finished run. Nothing writes here: processes that test at the same time share it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "smoke"
    with FileLock(shared / "smoke.lock"):
        if not (folder / "repro.log").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            result = run(make_checkout(folder), "dvc", "repro")
            (folder / "repro.log").write_text(result.stdout + result.stderr)
    return folder


@pytest.fixture(scope="module")
def finished(built, tmp_path_factory) -> Path:
    """A copy of the finished run for the tests of one file."""
    return Path(shutil.copytree(built, tmp_path_factory.mktemp("finished") / "checkout", symlinks=True))


def make_checkout(folder: Path) -> Path:
    """A copy of the tracked files, with the smoke profile in place and a separate DVC."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in tracked.stdout.split("\0"):
        # The lock and the metrics of the full run must not stand in for this one's.
        if name and not name.startswith(("tests/", ".dvc/", "metrics/", "dvc.lock")) and (REPOSITORY / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, folder / name)
    shutil.copyfile(REPOSITORY / "infra/profiles/smoke.yaml", folder / "params.yaml")
    run(folder, "dvc", "init", "--no-scm", "--quiet")
    return folder


def metrics(folder: Path) -> dict:
    return {name: json.loads((folder / f"metrics/{name}.json").read_text()) for name in METRICS}


def environment(folder: Path) -> dict[str, str]:
    # The checkout's own code, not the one that is installed.
    return os.environ | SECRETS | {"PYTHONPATH": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    result = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return result
