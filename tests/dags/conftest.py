"""A checkout of its own, on the smoke profile, and an Airflow of its own for the tests that run the DAG."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests import planted
from tests.dags import behind_password

REPOSITORY = Path(__file__).parents[2]
TOLD = "told.txt"  # what the notifier of the tests writes, beside the checkout
DEADLINE = 5  # seconds for a run of `retrain`
BIN = REPOSITORY / ".venv-orchestrator/bin"
# A labels file whose only pair has a label that is none.
BROKEN = "path_A,path_B,prompt,VQ,MQ,TA,fps_A,num_frames_A,fps_B,num_frames_B\na.mp4,b.mp4,a circle,better,A,A,8,9,8,9\n"


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Path:
    """A clone with this checkout's files as they are, the smoke profile in place, and a profile `broken`."""
    folder = clone(tmp_path_factory.mktemp("dags") / "checkout")
    smoke = (REPOSITORY / "infra/profiles/smoke.yaml").read_text().replace("retries: 1", "retries: 0")
    own = f"{{file: {folder.parent / TOLD}}}, deadlines: {{retrain: {DEADLINE / 3600:.5f}}}"
    told = f"{{notifier: tests.dags.told.Told, arguments: {own}}}"
    smoke = smoke.replace("{notifier: null, arguments: {}, deadlines: {}}", told)
    assert told in smoke
    (folder / "params.yaml").write_text(smoke)
    source = "source: {kind: folder, folder: broken, csv: labels.csv}\n"
    (folder / "infra/profiles/broken.yaml").write_text(re.sub(r"source:\n(  .*\n)+", source, smoke))
    (folder / "broken").mkdir()
    (folder / "broken/labels.csv").write_text(BROKEN)
    for name in (".venv-ml", ".triton"):
        (folder / name).symlink_to((REPOSITORY / name).resolve())
    commit(folder, "broken")
    return folder


def clone(folder: Path) -> Path:
    """A clone with this checkout's files as they are."""
    run(REPOSITORY, "git", "clone", "--quiet", REPOSITORY, folder)
    tracked = run(REPOSITORY, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, tracked):
        if (REPOSITORY / name).is_file() and not (REPOSITORY / name).is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, folder / name)
    return folder


def commit(folder: Path, *more: str) -> None:
    """What tasks run: they clone the commit."""
    run(folder, "git", "add", "--all", "components", "dags", "infra", "params.yaml", "dvc.yaml", *more)
    run(folder, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "-m", "smoke")


# Passwords of the addresses of the remote and of MLflow, beside the secrets of variables. No file has them, these tests' own
# neither, as the checkout has the tests too.
SECRETS = planted.SECRETS | {name: f"hush-{name.lower()}" for name in ("REELIGN_REMOTE", "MLFLOW_TRACKING_URI")}


@pytest.fixture(scope="session")
def environ(checkout) -> Iterator[dict[str, str]]:
    """Of an Airflow with its own database, a DVC remote and an MLflow server whose addresses have passwords, and all other
    secrets that a machine may have."""
    home = checkout.parent / "airflow"
    settings = {
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__DAGS_FOLDER": checkout / "dags",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}?timeout=60",  # by default 5 s
        "PYTHONPATH": checkout,
    }
    environ = os.environ | planted.SECRETS | {key: str(value) for key, value in settings.items()}
    environ.setdefault("OMP_NUM_THREADS", "1")  # two stages at a time
    environ.pop("REELIGN_WORK", None)
    run(checkout, BIN / "airflow", "db", "migrate", env=environ)
    with closing(sqlite3.connect(home / "airflow.db")) as database:  # a write does not lock out who reads
        database.execute("pragma journal_mode = wal")
    log = checkout.parent / "mlflow.log"
    with (
        behind_password.files(checkout.parent / "remote", SECRETS["REELIGN_REMOTE"]) as remote,
        behind_password.mlflow(
            checkout, SECRETS["MLFLOW_TRACKING_URI"], REPOSITORY / ".venv-ml/bin/mlflow", log
        ) as tracking,
    ):
        yield environ | {"REELIGN_REMOTE": remote, "MLFLOW_TRACKING_URI": tracking}


def leaks(checkout: Path) -> list[str]:
    """Files with a secret in all that the runs have left: trees, caches, remote, MLflow's store, Airflow's database and
    logs. DVC keeps the remote's address for its owner alone."""
    return planted.leaks(checkout.parent, SECRETS, private=(".dvc/config.local",))


RUN = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
dag = bag.dags[sys.argv[2]]
dag.deadline = None  # Airflow's `dag.test` does not end with one; the scheduler's runs have it
run = dag.test(run_conf=json.loads(sys.argv[3]))
print("STATE", run.state)
"""


def run_dag(checkout: Path, environ: dict[str, str], conf: dict, dag: str = "retrain", dags: Path | None = None) -> str:
    """Run a DAG once in a process of its own; its log, whose last line has the state. dags: a folder in place of dags/."""
    command = [str(BIN / "python"), "-c", RUN, str(dags or checkout / "dags"), dag, json.dumps(conf)]
    done = subprocess.run(command, cwd=checkout, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    (checkout.parent / f"{dag}-{conf.get('profile')}.log").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def tasks(environ: dict[str, str]) -> dict[str, tuple[str, float]]:
    """State and seconds of the tasks of the latest run."""
    with closing(sqlite3.connect(f"{environ['AIRFLOW_HOME']}/airflow.db")) as base:
        rows = base.execute(
            "select task_id, state, (julianday(end_date) - julianday(start_date)) * 86400 from task_instance"
            " where run_id = (select run_id from dag_run order by id desc limit 1)"
        ).fetchall()
    return {task: (state, seconds or 0.0) for task, state, seconds in rows}


def run(folder: Path, *command, **options) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout
