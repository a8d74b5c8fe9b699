"""A checkout on the smoke profile with the stack of `make up`, and a client of its Airflow."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import requests

from components.orchestration.credentials import read_credentials
from components.serving.repository import write_repository
from components.serving.server import is_free
from tests.dags.conftest import REPOSITORY, clone, commit
from tests.reward.tiny import saved_model
from tests.running import until
from tests.serving.conftest import PARAMS

SINGLE = ("mlflow", "airflow", "gateway", "postgres")
ENVIRONMENTS = (".venv-ml", ".venv-orchestrator", ".triton", ".seaweedfs", ".uv")
RETRAIN_SECONDS = 3000.0


def free_block(count: int = 20) -> int:
    """The first of `count` free ports in a row, below those that the system gives to clients."""
    while True:
        first = random.randrange(20000, 30000)
        if all(map(is_free, range(first, first + count))):
            return first


def stack_ports() -> dict[str, int]:
    first = free_block()
    return {name: first + place for place, name in enumerate(SINGLE)} | {"triton": first + 4, "s3": first + 8}


@dataclass
class Stack:
    """`make up` and `make down` in a folder."""

    folder: Path
    ports: dict[str, int] = field(default_factory=stack_ports)

    def call(self, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(self.command(*words), cwd=self.folder, env=self.environ(), capture_output=True, text=True)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "components.orchestration.services", *words]

    def up(self) -> subprocess.CompletedProcess:
        return self.call("up", *self.options())

    def options(self) -> list[str]:
        return [f"--{name}={port}" for name, port in self.ports.items()]

    def environ(self) -> dict[str, str]:
        """What a shell has that sources environment.sh."""
        base = os.environ | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        file = self.folder / ".reelign/stack/environment.sh"
        if file.exists():
            lines = [line.removeprefix("export ").partition("=") for line in file.read_text().splitlines()]
            base |= {name: value for name, _, value in lines}
        return base

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def secret(self, name: str) -> str:
        return read_credentials(self.folder / ".reelign/stack/credentials.env")[name]

    def processes(self) -> list[psutil.Process]:
        """All that work in the folder or below it, but for those that a test runs itself."""
        found = []
        for process in psutil.process_iter(["cwd"]):
            here = process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(self.folder)
            if here and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found


@dataclass
class Airflow:
    stack: Stack
    token: str = ""

    def ask(self, method: str, path: str, **body) -> dict:
        """One request, with a new token after a restart of the server. A question is put again while services are away."""
        found: list[requests.Response] = []

        def answered() -> bool:
            with suppress(requests.ConnectionError, requests.Timeout) if method == "GET" else nullcontext():
                found.append(self._request(method, path, body))
                if found[-1].status_code == 401:
                    self._log_in()
                    return False
                return found[-1].ok or method != "GET" or found[-1].status_code < 500
            return False

        until(answered, f"{method} {path}", 300)
        assert found[-1].ok, found[-1].text
        return found[-1].json()

    def _request(self, method: str, path: str, body: dict) -> requests.Response:
        header, address = {"Authorization": f"Bearer {self.token}"}, f"{self.stack.url('airflow')}/api/v2/{path}"
        return requests.request(method, address, json=body or None, headers=header, timeout=60)

    def _log_in(self) -> None:
        login = {"username": "admin", "password": self.stack.secret("AIRFLOW_ADMIN_PASSWORD")}
        answer = requests.post(f"{self.stack.url('airflow')}/auth/token", json=login, timeout=60)
        if answer.ok:
            self.token = answer.json()["access_token"]

    def runs(self, dag: str) -> list[dict]:
        return self.ask("GET", f"dags/{dag}/dagRuns?order_by=run_after")["dag_runs"]

    def states(self, dag: str, run: str) -> dict[str, str]:
        found = self.ask("GET", f"dags/{dag}/dagRuns/{run}/taskInstances?limit=100")["task_instances"]
        return {task["task_id"]: task["state"] for task in found}

    def failed_logs(self, states: dict[str, str]) -> str:
        """The end of the logs of the tasks that failed."""
        failed = [task for task, state in states.items() if state == "failed"]
        files = [
            file for task in failed for file in self.stack.folder.glob(f".reelign/stack/airflow/**/task_id={task}/*.log")
        ]
        lines = [line for file in files for line in (str(file), *file.read_text().splitlines())]
        return "\n".join(str(json.loads(line)["event"]) if line.startswith("{") else line for line in lines)

    def unpause(self, *dags: str) -> None:
        for dag in dags:
            until(lambda dag=dag: dag in {one["dag_id"] for one in self.ask("GET", "dags")["dags"]}, f"DAG {dag}")
            self.ask("PATCH", f"dags/{dag}", is_paused=False)

    def trigger(self, dag: str) -> str:
        return self.ask("POST", f"dags/{dag}/dagRuns", logical_date=None)["dag_run_id"]

    def ended(self, dag: str, run: str, patience: float = RETRAIN_SECONDS) -> str:
        """Its state at its end."""
        deadline = time.monotonic() + patience
        while (state := self.ask("GET", f"dags/{dag}/dagRuns/{run}")["state"]) not in ("success", "failed"):
            assert time.monotonic() < deadline, f"{dag} {run} is {state}: {self.states(dag, run)}"
            time.sleep(2)
        return state


@pytest.fixture(scope="session")
def new_folder() -> Iterator[Callable[[str], Path]]:
    """Folders that the account of Postgres may enter: pytest closes its own, again at each start of another pytest."""
    with tempfile.TemporaryDirectory(prefix="reelign-stack-") as base:
        Path(base).chmod(0o711)

        def make(name: str) -> Path:
            made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=base))
            made.chmod(0o755)
            return made

        yield make


def make_checkout(folder: Path, ports: dict[str, int]) -> Path:
    """Of the smoke profile, with a model to serve first, and a gate that a dozen steps of training can pass."""
    clone(folder)
    params = (REPOSITORY / "infra/profiles/smoke.yaml").read_text()
    changes = {
        "http://127.0.0.1:8000": f"http://127.0.0.1:{ports['triton']}",
        "latency_ratio: 2.0": "latency_ratio: 50",
        "min_accuracy: 0.5, max_calibration_error: 0.1": "min_accuracy: 0, max_calibration_error: 1",
        "retries: 1": "retries: 8",  # each kill may cost a task a try
        "retry_delay: 60": "retry_delay: 5",
    }
    for before, after in changes.items():
        assert before in params
        params = params.replace(before, after)
    (folder / "params.yaml").write_text(params)
    commit(folder)
    for name in ENVIRONMENTS:
        if (REPOSITORY / name).exists():  # a machine with uv installed has no .uv
            (folder / name).symlink_to((REPOSITORY / name).resolve())
    model = saved_model(folder.parent / "video_reward")
    write_repository(folder / "serving/model_repository", model, PARAMS)
    return folder


@pytest.fixture(scope="module")
def stack(new_folder):
    """Running; nothing of it runs at the end."""
    ports = stack_ports()
    stack = Stack(make_checkout(new_folder("stack") / "checkout", ports), ports)
    begun = time.monotonic()
    done = stack.up()
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        print(f"all healthy after {time.monotonic() - begun:.1f} s\n{done.stdout}")
        yield stack
    finally:
        ended = stack.call("down")
        left = stack.processes()
        for process in left:
            process.kill()
    assert ended.returncode == 0 and not left, (ended.stderr, left)
    shutil.rmtree(stack.folder / ".reelign/trees", ignore_errors=True)
