"""A checkout of the smoke profile and its finished run, shared by the end-to-end tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.planted import SECRETS

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the tracked files, with the smoke profile in place and a DVC of its own."""
    folder = tmp_path_factory.mktemp("checkout")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in tracked.stdout.split("\0"):
        # The lock and the metrics of the full run must not stand in for this one's.
        if name and not name.startswith(("tests/", ".dvc/", "metrics/", "dvc.lock")) and (REPOSITORY / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, folder / name)
    shutil.copyfile(REPOSITORY / "infra/profiles/smoke.yaml", folder / "params.yaml")
    run(folder, "dvc", "init", "--no-scm", "--quiet")
    return folder


def environment(folder: Path) -> dict[str, str]:
    # The checkout's own code, not the one that is installed.
    return os.environ | SECRETS | {"PYTHONPATH": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    result = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return result


@pytest.fixture(scope="module")
def finished(checkout) -> Path:
    result = run(checkout, "dvc", "repro")
    (checkout / "repro.log").write_text(result.stdout + result.stderr)
    return checkout
