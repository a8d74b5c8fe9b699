"""What `pip install ".[client]"` and `.[ml]` bring, each into an environment that has nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.serving.install import ROOT, install_triton
from components.serving.server import serving
from tests.reward.test_export_mlflow import check, exported, predicted  # noqa: F401
from tests.serving.conftest import model_folder, repository, videos  # noqa: F401

pytestmark = pytest.mark.extras
HEAVY = ("torch", "transformers", "diffusers", "av", "pandas", "pyarrow", "scipy", "mlflow", "dvc", "ray", "pytest", "cv2")
MOST_MEGABYTES = 150
# Modules of the backend, which only Triton can import.
INSIDE_TRITON = ("components.serving.backend.entry", "components.serving.backend.model")
IMPORT_ALL = f"""
import importlib, pkgutil, components
for found in pkgutil.walk_packages(components.__path__, "components."):
    if found.name not in {INSIDE_TRITON}:
        importlib.import_module(found.name)
"""


def install(folder: Path, *arguments: str | Path) -> Path:
    """An environment in `folder` with what uv is to install; its Python."""
    uv = shutil.which("uv", path=f"{ROOT / '.uv/bin'}{os.pathsep}{os.environ['PATH']}")
    assert uv is not None
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder / "env"], check=True)
    python = folder / "env/bin/python"
    command = [uv, "pip", "install", "--quiet", "--python", python, *arguments]
    # uv reads its own variables alone. torch's build is not in the lock: without wheels of the machine, the CPU's.
    wheels = os.environ.get("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", ""))
    chosen = {"UV_FIND_LINKS": wheels} if wheels else {"UV_TORCH_BACKEND": "cpu"}
    subprocess.run(command, check=True, env=os.environ | chosen)
    return python


def environment(folder: Path, extra: str) -> Path:
    """An environment with this checkout and one of its extras, in the versions of the lock; its Python."""
    source = folder / "source"  # not in place: a build leaves files there
    for name in ("components", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    return install(folder, "--constraints", ROOT / "docker/locks/ml.txt", f"reelign[{extra}] @ {source}")


def call(python: Path, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess:
    """Run it with nothing of this process's environment that could bring modules in."""
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    return subprocess.run([python, *arguments], cwd=cwd, env=clean, capture_output=True, text=True)


def test_the_client_scores_and_brings_nothing_heavy(tmp_path, repository, videos):  # noqa: F811
    python = environment(tmp_path, "client")
    reelign = python.with_name("reelign")
    there = json.loads(
        call(
            python,
            "-c",
            f"import importlib.util as u, json; print(json.dumps([n for n in {HEAVY} if u.find_spec(n)]))",
            cwd=tmp_path,
        ).stdout
    )
    assert there == []
    size = sum(file.stat().st_size for file in (tmp_path / "env").rglob("*") if file.is_file() and not file.is_symlink())
    assert size < MOST_MEGABYTES << 20, size
    helped = call(python, reelign, "--help", cwd=tmp_path)
    assert helped.returncode == 0 and "score" in helped.stdout
    install_triton()
    (tmp_path / "clips.csv").write_text("".join(["path,prompt\n", *(f"{video},a red circle\n" for video in videos)]))
    with serving(repository, tmp_path / "triton.log") as server:
        for url in (f"http://{server.http}", f"grpc://{server.grpc}"):
            done = call(python, reelign, "score", "--csv", "clips.csv", "--triton", url, "--json", cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == list(map(str, videos))
        plain = call(python, reelign, "score", videos[0], "--prompt", "a red circle", "--triton", url, cwd=tmp_path)
        assert plain.returncode == 0 and "Overall" in plain.stdout
        frames = call(python, reelign, "score", "--csv", "clips.csv", "--triton", url, "--send", "frames", cwd=tmp_path)
        assert frames.returncode == 2 and "this installation has no decoder" in frames.stderr
    for command in (["score", videos[0], "--prompt", "p"], ["doctor"], ["promote"], ["generate", "--prompt", "p"]):
        done = call(python, reelign, *command, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "is not installed: `pip install reelign[ml]`" in done.stderr


def test_all_of_the_project_imports_with_ml(tmp_path):
    """Without what only tests need."""
    python = environment(tmp_path, "ml")
    done = call(python, "-c", IMPORT_ALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert call(python, "-c", "import pytest", cwd=tmp_path).returncode == 1


def test_an_mlflow_model_in_an_environment_of_its_own_requirements(exported, tmp_path):  # noqa: F811
    python = install(tmp_path, "--requirements", exported / "out/requirements.txt")
    check(predicted(python, exported), exported)
