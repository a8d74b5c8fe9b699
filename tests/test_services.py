"""The light form of `make up`, and `make down`: three real services, one that dies, ports that are taken."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from components.errors import BadInput
from components.orchestration import services
from components.orchestration.light import light_services
from components.orchestration.service import LIGHT, Service, age, leftovers, running, start, stop
from components.orchestration.services import start_all
from components.pipeline.mlflow_store import artifacts_of, mlflow_client
from components.pipeline.tracking import _experiment
from components.serving.ports import free_ports
from components.serving.repository import write_repository
from tests.reward.tiny import saved_model
from tests.running import until, until_gone
from tests.serving.conftest import PARAMS

ROOT = Path(__file__).parents[1]
FILES = ".reelign/services"
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder with DAGs, a packaged model and the environments; nothing of it runs at the end."""
    for name in ("components", "dags", "docker", "infra"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in (".venv-orchestrator", ".uv"):  # a machine with uv installed has no .uv
        if (ROOT / name).exists():
            (tmp_path / name).symlink_to((ROOT / name).resolve())
    write_repository(tmp_path / "serving/model_repository", saved_model(tmp_path / "video_reward"), PARAMS)
    yield tmp_path
    call(tmp_path, "down")


@pytest.fixture
def ports() -> dict[str, int]:
    """For MLflow and Airflow, and three in a row for Triton."""
    while True:
        mlflow, airflow, triton = free_ports(3)
        if len({mlflow, airflow, triton, triton + 1, triton + 2}) == 5:
            return {"mlflow": mlflow, "airflow": airflow, "triton": triton}


def call(folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "components.orchestration.services", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def options(ports: dict[str, int]) -> list[str]:
    return [f"--{name}={port}" for name, port in ports.items()]


def records(folder: Path) -> dict[str, int]:
    return {file.stem: json.loads(file.read_text())["pid"] for file in (folder / FILES).glob("*.json")}


def dags(folder: Path, port: int) -> set[str]:
    """Names of the DAGs that Airflow shows to its admin."""
    (user,) = json.loads((folder / ".airflow/simple_auth_manager_passwords.json.generated").read_text()).items()
    login = json.dumps(dict(zip(("username", "password"), user, strict=True))).encode()
    header = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/auth/token", login, header)
    token = json.load(urllib.request.urlopen(asked))["access_token"]
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/api/v2/dags", headers={"Authorization": f"Bearer {token}"})
    return {dag["dag_id"] for dag in json.load(urllib.request.urlopen(asked))["dags"]}


@pytest.mark.services
def test_services_start_together_come_back_alone_and_leave_nothing(checkout, ports):
    done = call(checkout, "up", "--light", *options(ports))
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == [f"http://127.0.0.1:{p}" for p in ports.values()]
    until(lambda: "retrain" in dags(checkout, ports["airflow"]), "DAG retrain")
    first = records(checkout)
    family = [process for pid in first.values() for process in psutil.Process(pid).children(recursive=True)]
    assert len(family) > 5

    os.kill(first["triton"], signal.SIGTERM)
    until(lambda: not psutil.pid_exists(first["triton"]), "end of Triton")
    assert call(checkout, "up", "--light", *options(ports)).returncode == 0
    second = records(checkout)
    assert {name for name in first if first[name] != second[name]} == {"triton"}
    other = call(checkout, "up", "--light", *options(ports | {"mlflow": ports["mlflow"] + 1}))
    assert other.returncode == 2 and "--mlflow: runs on" in other.stderr

    family += [psutil.Process(pid) for pid in second.values() if psutil.pid_exists(pid)]
    assert call(checkout, "down").returncode == 0
    until_gone(family)
    assert records(checkout) == {}


def test_services_of_a_copied_checkout_are_left_alone(tmp_path, monkeypatch):
    """`make down` in a copy, which has the records too, must not end what serves the original; after a move it must."""
    (tmp_path / "here" / FILES).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    start(Service("mlflow", [sys.executable, "-c", "import time; time.sleep(600)"], [], lambda: True, ""))
    pid = running("mlflow").pid
    shutil.copytree(tmp_path / "here", tmp_path / "copy")
    monkeypatch.chdir((tmp_path / "here").rename(tmp_path / "moved"))
    assert running("mlflow").pid == pid
    monkeypatch.chdir(tmp_path / "copy")
    assert running("mlflow") is None
    stop("mlflow")
    assert psutil.pid_exists(pid)
    monkeypatch.chdir(tmp_path / "moved")
    stop("mlflow")
    assert not psutil.pid_exists(pid)


def test_what_a_killed_service_left_is_ended(tmp_path, monkeypatch):
    """A child that leads a session, and a child that hides its environment."""
    (tmp_path / FILES).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    sleep = "import time; time.sleep(600)"
    child = f"subprocess.Popen([sys.executable, '-c', {sleep!r}], start_new_session=%s, env=%s)"
    words = f"import os, subprocess, sys; {child % (True, 'os.environ')}; {child % (False, '{}')}; {sleep}"
    start(Service("parent", [sys.executable, "-c", words], [], lambda: True, ""))
    parent = running("parent")
    until(lambda: len(parent.children()) == 2, "both children")
    family = parent.children()
    parent.kill()
    parent.wait()
    assert len(leftovers("parent")) == 2 and leftovers("other") == []
    stop("parent")
    until_gone(family)


def test_what_ends_after_a_service_that_it_needs_is_started_again(tmp_path, monkeypatch):
    (tmp_path / FILES).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    part = Service("part", SLEEP, [], lambda: running("part") is not None, "", after=("database",))
    start(part)
    first = running("part")

    def ready() -> bool:
        """The part ends while the database comes back."""
        if first.is_running():
            first.kill()
            until_gone([first])
        return True

    database = Service("database", SLEEP, [], ready, "")
    start_all([database, part], LIGHT)
    assert running("database") is not None and running("part").pid != first.pid
    for name in ("part", "database"):
        stop(name)


def test_a_service_that_ends_while_another_waits_for_it_is_started_again(tmp_path, monkeypatch):
    """The database was ready, and is killed while `up` waits for the part, which then ends too."""
    (tmp_path / FILES).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    killed = []

    def ready() -> bool:
        if not killed:
            killed.extend([running("database"), running("part")])
            for process in killed:
                process.kill()
            until_gone(killed)
            return False
        return running("part") is not None

    database = Service("database", SLEEP, [], lambda: running("database") is not None, "")
    part = Service("part", SLEEP, [], ready, "", after=("database",))
    start_all([database, part], LIGHT)
    again = [running("database"), running("part")]
    assert None not in again and not {one.pid for one in again} & {one.pid for one in killed}
    assert again[0].create_time() <= again[1].create_time(), "the part starts after what it needs"
    for name in ("part", "database"):
        stop(name)


def test_a_service_that_runs_and_does_no_work_is_started_again(tmp_path, monkeypatch, capsys):
    (tmp_path / FILES).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(services, "HUNG_SECONDS", 0.5)
    monkeypatch.setattr(services, "START_SECONDS", 5.0)
    part = Service("part", SLEEP, [], lambda: running("part").pid != first.pid, "")
    start(part)
    first = running("part")
    until(lambda: age(first) > 5, "the time to start")
    start_all([part], LIGHT)
    assert not first.is_running() and running("part") is not None
    assert "part runs, and is not ready after" in capsys.readouterr().out
    stop("part")


def test_a_slow_start_under_an_earlier_up_is_waited_for(tmp_path, monkeypatch):
    (tmp_path / FILES).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(services, "HUNG_SECONDS", 0.5)
    part = Service("part", SLEEP, [], lambda: age(running("part")) > 2, "")
    start(part)
    first = running("part")
    start_all([part], LIGHT)
    assert running("part").pid == first.pid
    stop("part")


def test_what_ends_while_another_is_awaited_is_seen(tmp_path, monkeypatch):
    """A service that nobody needs ends once it was ready."""
    (tmp_path / FILES).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    killed = []

    def ready() -> bool:
        if not killed:
            killed.append(running("first"))
            killed[0].kill()
            until_gone(killed)
        return True

    first = Service("first", SLEEP, [], lambda: running("first") is not None, "")
    start_all([first, Service("second", SLEEP, [], ready, "")], LIGHT)
    assert running("first") is not None and running("first").pid != killed[0].pid
    for name in ("first", "second"):
        stop(name)


def test_a_service_that_is_ready_and_ends_again_and_again_is_named(tmp_path, monkeypatch):
    (tmp_path / FILES).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    seen = set()

    def ready() -> bool:
        process = running("first")
        if process is not None and process.pid not in seen:
            seen.add(process.pid)
            return True
        if process is not None:
            process.kill()
            until_gone([process])
        return False

    first = Service("first", SLEEP, [], ready, "")
    second = Service("second", SLEEP, [], lambda: first.ready() and False, "", after=("first",))
    with pytest.raises(BadInput, match="first did not start"):
        start_all([first, second], LIGHT)
    assert len(seen) == services.STARTS


def test_a_failed_up_leaves_what_an_earlier_one_started(tmp_path, monkeypatch):
    (tmp_path / FILES).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    database = Service("database", SLEEP, [], lambda: running("database") is not None, "")
    start(database)
    running("database").kill()
    until(lambda: running("database") is None, "the end")
    broken = Service("broken", [sys.executable, "-c", "raise SystemExit('no memory')"], [], lambda: False, "")
    with pytest.raises(BadInput, match="broken did not start"):
        start_all([database, broken], LIGHT)
    assert running("database") is not None and running("broken") is None
    stop("database")


def test_a_clock_that_is_set_hides_no_service(tmp_path, monkeypatch):
    """psutil's time of a start is that of the boot, which moves with the clock, and ticks since."""
    (tmp_path / FILES).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    start(Service("part", SLEEP, [], lambda: True, ""))
    pid = running("part").pid
    boot = psutil._pslinux.boot_time
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot() + 1)
    assert running("part") is not None and running("part").pid == pid
    stop("part")
    assert not psutil.pid_exists(pid)


def test_a_service_that_ends_at_once_is_named_and_what_was_started_ends(tmp_path, monkeypatch):
    (tmp_path / FILES).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    database = Service("database", SLEEP, [], lambda: True, "")
    part = Service("part", [sys.executable, "-c", "print('no such key')"], [], lambda: False, "", after=("database",))
    with pytest.raises(BadInput, match=r"part did not start:.*no such key$"):
        start_all([database, part], LIGHT)
    assert running("database") is None


@pytest.mark.services
def test_mlflow_of_a_moved_checkout_serves_its_artifacts(tmp_path, monkeypatch):
    """What a store held before it was moved, and what is written through the server from another folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("old", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "old")
    client = mlflow_client()
    run = client.create_run(_experiment(client, "shapes")).info.run_id
    Path("note").write_text("before")
    artifacts_of(client, run).log_artifact("note")
    monkeypatch.chdir((tmp_path / "old").rename(tmp_path / "new"))
    port = free_ports(1)[0]
    mlflow = light_services(port, 1, 2)[0]
    with open("log", "w") as log, subprocess.Popen(mlflow.command, stdout=log, stderr=log, start_new_session=True) as server:
        try:
            until(mlflow.ready, "MLflow")
            monkeypatch.chdir(tmp_path / "elsewhere")
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
            shown = f"http://127.0.0.1:{port}/get-artifact?path=note&run_uuid={run}"
            assert urllib.request.urlopen(shown).read() == b"before"
            client = mlflow_client()
            for experiment in ("shapes", "smoke"):  # made by the store, and by the server
                Path("later").write_text(experiment)
                made = client.create_run(_experiment(client, experiment)).info.run_id
                artifacts_of(client, made).log_artifact("later")
                assert Path(artifacts_of(client, made).download_artifacts("later")).read_text() == experiment
            assert len(list((tmp_path / "new/mlartifacts").rglob("later"))) == 2
        finally:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.mark.services
def test_what_cannot_start_leaves_nothing_behind(checkout, ports):
    with socket.create_server(("127.0.0.1", ports["airflow"])):
        done = call(checkout, "up", "--light", *options(ports))
    assert done.returncode == 2 and done.stderr.startswith("error: --airflow: another process listens on port")
    (checkout / "serving/model_repository/video_reward_model/1/video_reward/model.safetensors").write_bytes(b"no model")
    done = call(checkout, "up", "--light", *options(ports))
    assert done.returncode == 2 and "triton did not start" in done.stderr, done.stderr
    assert records(checkout) == {}
