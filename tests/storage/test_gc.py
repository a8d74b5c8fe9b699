"""`reelign gc`: what nothing needs goes, and nothing else; on a real DVC repository, MLflow store and model repository."""

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.cli.main import app
from components.config.params import load_params
from components.files.locks import sole_writer
from components.orchestration.storage.collect import look, no_stage_runs, remove
from components.orchestration.storage.dvc_cache import dvc_items
from components.orchestration.storage.local import log_items, version_items
from components.pipeline.mlflow_store import artifacts_of, mlflow_client
from components.pipeline.stage import build_folder
from components.pipeline.tracking import _experiment
from components.serving.record import Deployment, write_deployment

REPOSITORY = Path(__file__).parents[2]
DAY = 86400
OLD = time.time() - 100 * DAY
# A folder of two files, one of which all values share.
PIPELINE = """
stages:
  a:
    cmd: mkdir -p out && cp value.txt out/value && echo shared > out/shared && cp value.txt one
    deps: [value.txt]
    outs: [out, one]
"""


def run(folder: Path, *words: str) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    author = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    done = subprocess.run(words, cwd=folder, env=environment | author, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def made(folder: Path, value: str) -> None:
    (folder / "value.txt").write_text(value)
    run(folder, "dvc", "repro")


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """Values by what names them: `tagged` a tag, `head` a commit, `tree` the tree of a stage, `here` the checkout, `lately`
    an entry of the run cache that is new, `gone` nothing. All objects are old."""
    folder = tmp_path_factory.mktemp("gc") / "checkout"
    folder.mkdir()
    run(folder, "git", "init", "--quiet")
    run(folder, "dvc", "init", "--quiet")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / ".gitignore").write_text("/out\n/one\n.reelign/\n")
    shutil.copyfile(REPOSITORY / "params.yaml", folder / "params.yaml")
    made(folder, "tree")
    (folder / ".reelign/trees/a").mkdir(parents=True)
    shutil.copyfile(folder / "dvc.lock", folder / ".reelign/trees/a/dvc.lock")
    for value in ("tagged", "head"):
        made(folder, value)
        run(folder, "git", "add", "-A")
        run(folder, "git", "commit", "--quiet", "-m", value)
        if value == "tagged":
            run(folder, "git", "tag", "v1")
    for value in ("lately", "gone", "here"):
        made(folder, value)
    for file in (folder / ".dvc/cache").rglob("*"):
        if file.is_file() and not (
            file.is_relative_to(folder / ".dvc/cache/runs") and digest(folder, "lately") in file.read_text()
        ):
            file.chmod(0o644)
            os.utime(file, (OLD, OLD))
    return folder


@pytest.fixture
def checkout(template, tmp_path, monkeypatch) -> Path:
    shutil.copytree(template, tmp_path / "checkout", symlinks=True)
    monkeypatch.chdir(tmp_path / "checkout")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "checkout"


def digest(folder: Path, value: str) -> str:
    import hashlib

    return hashlib.md5(value.encode(), usedforsecurity=False).hexdigest()


def cached(folder: Path, value: str) -> bool:
    name = digest(folder, value)
    return (folder / ".dvc/cache/files/md5" / name[:2] / name[2:]).exists()


VALUES = ("tree", "tagged", "head", "lately", "gone", "here")


def test_of_dvcs_cache_goes_what_nothing_names(checkout):
    found = look(checkout, load_params(), 30)
    assert {item.kind for item in found} == {"DVC cache"}
    dropped = {Path(item.place) for item in found if item.remove is not None}
    gone = digest(checkout, "gone")
    assert checkout / ".dvc/cache/files/md5" / gone[:2] / gone[2:] in dropped
    assert len(dropped) == 3, "the file, the folder's list and the entry of the run"
    assert all(cached(checkout, value) for value in VALUES), "looking removes nothing"
    remove(found)
    assert [value for value in VALUES if not cached(checkout, value)] == ["gone"]
    run(checkout, "dvc", "checkout", "--quiet", "--force")
    assert (checkout / "out/value").read_text() == "here" and (checkout / "out/shared").exists()
    run(checkout, "git", "stash", "--quiet")
    run(checkout, "git", "checkout", "--quiet", "v1")
    run(checkout, "dvc", "checkout", "--quiet", "--force")
    assert (checkout / "out/value").read_text() == "tagged"
    made(checkout, "gone")
    assert cached(checkout, "gone"), "it is made again"


def test_what_is_new_stays(checkout):
    for file in (checkout / ".dvc/cache/files").rglob("*"):
        os.utime(file)
    assert not [item for item in look(checkout, load_params(), 30) if item.remove is not None]


def test_a_cache_that_other_checkouts_share_stays(checkout, tmp_path):
    shutil.move(checkout / ".dvc/cache", tmp_path / "cache")
    run(checkout, "dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
    (item,) = dvc_items(checkout, [], time.time(), 30)
    assert item.remove is None and "outside of this checkout" in item.reason and item.held > 0


def test_of_mlflows_artifacts_go_those_of_deleted_runs(checkout):
    client = mlflow_client()
    experiment = _experiment(client, "shapes")

    def logged(name: str, ended: float, deleted: bool = False, running: bool = False) -> str:
        run = client.create_run(experiment, run_name=name, start_time=int(ended * 1000)).info.run_id
        Path(name).write_text(name)
        artifacts_of(client, run).log_artifact(name)
        if not running:
            client.set_terminated(run, end_time=int(ended * 1000))
        if deleted:
            client.delete_run(run)
        return run

    old = {
        name: logged(name, OLD, "deleted" in name, "running" in name)
        for name in ("kept", "running", "deleted", "deleted_version")
    }
    logged("deleted_lately", time.time(), deleted=True)
    client.create_registered_model("reelign-shapes-video-reward")
    run = old["deleted_version"]
    client.create_model_version("reelign-shapes-video-reward", f"mlartifacts/{run}/artifacts", run)
    (checkout / "mlartifacts" / ("ab" * 16)).mkdir()
    (checkout / "mlartifacts" / ("ab" * 16) / "file").write_text("left")
    os.utime(checkout / "mlartifacts" / ("ab" * 16), (OLD, OLD))

    items = [item for item in look(checkout, load_params(), 30) if item.kind == "MLflow artifacts"]
    assert {item.reason for item in items if item.remove is not None} == {
        "its run was deleted in MLflow",
        "no run on record has it",
    }
    remove(items)
    left = {file.name for file in (checkout / "mlartifacts").rglob("*") if file.is_file()}
    assert left == {"kept", "running", "deleted_version", "deleted_lately"}


def test_a_cache_of_frames_goes_when_it_was_not_used(checkout):
    for place, last in ((".reelign/cache/frames/old", OLD), (".reelign/trees/a/.reelign/cache/frames/new", time.time())):
        (checkout / place).mkdir(parents=True)
        for name in ("frames.u8", "index.jsonl"):
            (checkout / place / name).write_bytes(b"x" * 10)
        os.utime(checkout / place / "index.jsonl", (last, last))
    items = [item for item in look(checkout, load_params(), 30) if item.kind == "frame caches"]
    assert remove(items) == 20
    left = {file.relative_to(checkout).parts[1] for file in checkout.rglob("index.jsonl")}
    assert left == {"trees"} and not list(checkout.rglob("old/frames.u8"))


def test_a_served_log_goes_when_no_check_reads_it(tmp_path):
    now = datetime(2026, 11, 30, 12, tzinfo=UTC)
    for back in (0, 7, 8):
        (tmp_path / f"{(now - timedelta(days=back)).date()}-1-ab.jsonl").write_text("{}\n")
    items = log_items(tmp_path, 168, now)
    remove(items)
    assert [path.name[:10] for path in sorted(tmp_path.iterdir())] == ["2026-11-23", "2026-11-30"]


def test_a_served_version_goes_when_no_record_names_it(tmp_path):
    for front in ("video_reward", "video_reward_file"):
        (tmp_path / front).mkdir()
        (tmp_path / front / "config.pbtxt").write_text("model_version: 3\n")
    for version in (1, 2, 3, 4, 5):
        (tmp_path / "video_reward_model" / str(version)).mkdir(parents=True)
        (tmp_path / "video_reward_model" / str(version) / "model").write_text("weights")
    config = tmp_path / "video_reward_model/config.pbtxt"
    config.write_text("version_policy { specific { versions: [2, 3, 4] } }\n")
    write_deployment(tmp_path, Deployment(serving=3, before=2, verified=[1, 2, 3]))
    items = version_items(tmp_path)
    assert [(Path(item.place).name, item.remove is None) for item in items] == [(f"{n}", n != 5) for n in range(1, 6)]
    remove(items)
    assert {path.name for path in config.parent.iterdir()} == {"1", "2", "3", "4", "config.pbtxt"}


def test_the_command_looks_first_and_refuses_while_a_stage_runs(checkout):
    shown = CliRunner().invoke(app, ["gc", "--json"])
    rows = json.loads(shown.stdout)["rows"]
    would = sum(row["frees"] for row in rows)
    assert shown.exit_code == 0 and {row["drop"] for row in rows} == {False, True} and cached(checkout, "gone")
    for place in (build_folder("a"), checkout / ".reelign/trees/a"):
        with sole_writer(place):
            refused = CliRunner().invoke(app, ["gc", "--apply"])
        assert refused.exit_code != 0 and "is being written by" in str(refused.exception) and cached(checkout, "gone")
    applied = CliRunner().invoke(app, ["gc", "--apply"])
    assert applied.exit_code == 0 and f"{would:,} bytes freed" in applied.stdout and not cached(checkout, "gone")


def test_no_stage_starts_meanwhile(checkout):
    with no_stage_runs(checkout):
        task = [
            sys.executable,
            "-c",
            "from components.files.locks import sole_writer\nwith sole_writer('.reelign/trees/a'): pass",
        ]
        done = subprocess.run(task, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True)
    assert "is being written by" in done.stderr
