"""Params of a pipeline run stay those that it began with: beside a real `dvc repro` of two small stages."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from components.cli.main import PROFILES, app
from components.errors import BadInput
from components.pipeline import pipeline_run
from components.pipeline.graph import stage_names
from components.pipeline.pipeline_run import is_dvc, progress, under_way

REPOSITORY = Path(__file__).parents[1]
DVC = Path(sys.executable).with_name("dvc")
# Of a stage what this is about. The first one waits for the file `go`.
CHECKS = """
import sys, time
from pathlib import Path
from components.errors import exit_codes
from components.config.params import load_params
from components.pipeline.pipeline_run import hold_params
with exit_codes():
    hold_params(load_params())
    Path(f"{sys.argv[1]}.begun").touch()
    while sys.argv[1] == "first" and not Path("go").exists():
        time.sleep(0.05)
    Path(f"{sys.argv[1]}.txt").write_text("made")
"""
STAGE = """
import sys, time
from pathlib import Path
from components.pipeline.stage import stage_main
def toy(stage):
    Path(f"{stage.name}.begun").touch()
    while stage.name == "first" and not Path("go").exists():
        time.sleep(0.05)
    stage.output(f"{stage.name}.txt").write_text("made")
stage_main(sys.argv[1], toy)
"""
DVC_YAML = """
stages:
  first: {cmd: python toy.py first, params: [seed], outs: [first.txt]}
  second: {cmd: python toy.py second, deps: [first.txt], params: [align.dpo.beta], outs: [second.txt]}
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    (tmp_path / "infra").mkdir()
    (tmp_path / PROFILES).symlink_to(PROFILES.resolve())
    (tmp_path / "toy.py").write_text(CHECKS)
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    shutil.copyfile(REPOSITORY / PROFILES / "shapes.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("PATH", f"{DVC.parent}:{os.environ['PATH']}")
    (tmp_path / ".dvc").mkdir()
    config = (REPOSITORY / ".dvc/config").read_text()
    (tmp_path / ".dvc/config").write_text(config.replace("[core]\n", "[core]\n    no_scm = true\n"))
    return tmp_path


@pytest.fixture
def repro(checkout):
    """Begin `dvc repro`; it is in its first stage then."""
    started = []

    def begin() -> subprocess.Popen:
        (checkout / "first.begun").unlink(missing_ok=True)
        process = subprocess.Popen([DVC, "repro"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        deadline = time.monotonic() + 60
        while not (checkout / "first.begun").exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.05)
        return process

    yield begin
    (checkout / "go").touch()  # ends a stage whose `dvc` is gone
    for process in started:
        process.kill()
        process.wait()


def go(process: subprocess.Popen) -> str:
    """Let the run go on to its end; what it printed."""
    Path("go").touch()
    return process.communicate(timeout=60)[0]


def profile(name: str) -> None:
    CliRunner().invoke(app, ["profile", name], catch_exceptions=False)


def change(old: str, new: str) -> None:
    text = Path("params.yaml").read_text()
    assert old in text
    Path("params.yaml").write_text(text.replace(old, new, 1))


def test_a_profile_is_refused_while_a_run_is_under_way_and_taken_after_it(checkout, repro):
    profile("shapes")
    process = repro()
    before = (checkout / "params.yaml").read_bytes()
    with pytest.raises(BadInput, match=rf"^params.yaml: a pipeline run is under way here \(process {process.pid}"):
        profile("smoke")
    assert (checkout / "params.yaml").read_bytes() == before
    profile("shapes")  # what it is already
    assert under_way(REPOSITORY / "tests") == [], "other checkouts are free"
    printed = go(process)
    assert process.returncode == 0, printed
    profile("smoke")
    assert (checkout / "params.yaml").read_bytes() == (PROFILES / "smoke.yaml").read_bytes()
    assert not list(checkout.glob("*.partial"))


@pytest.mark.parametrize("stage", [CHECKS, STAGE])
def test_later_stages_refuse_params_other_than_those_that_the_run_began_with(checkout, repro, stage):
    (checkout / "toy.py").write_text(stage)
    process = repro()
    change("    beta: ", "    beta: 1")
    printed = go(process)
    assert process.returncode != 0
    assert f"params.yaml: was changed since the start of `dvc` (process {process.pid})" in printed
    assert "Traceback" not in printed
    assert (checkout / "first.txt").exists() and not (checkout / "second.txt").exists()
    if stage == CHECKS:
        assert subprocess.run([DVC, "repro"]).returncode == 0, "a new run takes them"


def test_a_comment_is_no_change(checkout, repro):
    process = repro()
    with open("params.yaml", "a") as file:
        file.write("# a note\n")
    printed = go(process)
    assert process.returncode == 0, printed


def test_a_kill_leaves_nothing_that_refuses(checkout, repro):
    process = repro()
    stage = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(BadInput, match="under way"):
        profile("smoke")  # the stage itself lives on
    (checkout / "go").touch()
    psutil.wait_procs(stage, 30)
    profile("smoke")
    done = subprocess.run([DVC, "repro"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((checkout / ".reelign/runs").iterdir())) == 1, "that of the run that was killed is forgotten"


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("dvc repro", True),
        ("/venv/bin/dvc repro", True),
        ("python /venv/bin/dvc repro", True),
        ("python -m dvc repro", True),
        ("python -X utf8 -m dvc repro", True),
        ("python3.11 -Xutf8 -W ignore -I -mdvc repro", True),
        ("python -Im dvc repro", True),
        ("python -W error /venv/bin/dvc repro", True),
        ("python -m components.dvc", False),
        ("python -c dvc", False),
        ("python train.py dvc", False),
        ("python -X dvc train.py", False),
        ("less dvc", False),
        ("", False),
    ],
)
def test_dvc_is_known_however_python_starts_it(line, is_one):
    assert is_dvc(line.split()) == is_one


def test_progress_counts_stages_and_scales_the_time_to_go(monkeypatch):
    """At half the speed of the table; with the first stages done before; for a profile that is not in it."""
    seconds = yaml.safe_load((REPOSITORY / pipeline_run.SECONDS).read_text())["shapes"]
    assert [*seconds] == stage_names()
    place = stage_names().index("reward")
    before = sum([*seconds.values()][:place])
    rest = sum(seconds.values()) - before

    def began(ago: float) -> None:
        process = SimpleNamespace(create_time=lambda: time.time() - ago)
        monkeypatch.setattr(pipeline_run, "dvc_run", lambda: process)

    began(2 * before)
    assert (
        progress("reward", "shapes")
        == f"stage 6 of 22, {2 * before / 60:.0f} min so far, about {2 * rest / 60:.0f} min to go"
    )
    began(10)
    assert progress("reward", "shapes") == f"stage 6 of 22, 10 s so far, about {rest / 60:.0f} min to go"
    assert progress("reward", "smoke") == "stage 6 of 22, 10 s so far"
    monkeypatch.setattr(pipeline_run, "dvc_run", lambda: None)
    assert progress("reward", "shapes") is None
