"""`make up` and `make down`: MLflow, Airflow and Triton of this checkout, on the loopback, for local use.

Each is a separate process that outlives this one; `.reelign/services/NAME.json` records it, NAME.log and NAME.log.1 have
the end of its output. For permanent services, see infra/.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import psutil
import typer

from components.config.params import load_params
from components.contracts import MODEL_REPOSITORY
from components.errors import BadInput, exit_codes
from components.files.atomic import atomic_write, discard
from components.orchestration import bounded_log
from components.pipeline.mlflow_store import ARTIFACTS, relocate
from components.runtime.termination import end
from components.serving.server import answers, is_free

FOLDER = Path(".reelign/services")
STORE_FILE = Path("mlflow.db")
START_SECONDS, STOP_SECONDS = 240.0, 60.0
PASSWORD = ".airflow/simple_auth_manager_passwords.json.generated"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@dataclass(frozen=True)
class Service:
    """`ready`: URL that returns 200 once the service is ready. `stop`: the signal for an orderly end."""

    name: str
    command: list[str]
    ports: list[int]
    ready: str
    about: str
    environment: dict[str, str] = field(default_factory=dict)
    stop: signal.Signals = signal.SIGTERM
    umask: int = -1  # of this process

    @property
    def log(self) -> Path:
        return FOLDER / f"{self.name}.log"


def services(mlflow: int, airflow: int, triton: int) -> list[Service]:
    here = Path.cwd()
    home = here / ".airflow"
    environment = {
        "AIRFLOW_HOME": str(home),
        # Airflow writes these into airflow.cfg once, but the checkout may have been moved or copied since.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(home / "logs/dag_processor"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(here / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(airflow),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{airflow}",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{airflow}/execution/",
        "PATH": f"{here}/.venv-orchestrator/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(here),
    }
    python = [sys.executable, "-m"]
    store = ["--backend-store-uri", f"sqlite:///{STORE_FILE}", "--artifacts-destination", ARTIFACTS]
    listen = [f"--{kind}-port={triton + place}" for place, kind in enumerate(("http", "grpc", "metrics"))]
    return [
        Service(
            "mlflow",
            [*python, "mlflow", "server", "--host=127.0.0.1", f"--port={mlflow}", "--workers=1", *store],
            [mlflow],
            f"http://127.0.0.1:{mlflow}/health",
            "runs and models: ",
            {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        ),
        Service(
            "airflow",
            [str(here / ".venv-orchestrator/bin/airflow"), "standalone"],
            [airflow],
            f"http://127.0.0.1:{airflow}/api/v2/monitor/health",
            f"DAGs; user admin, password in {PASSWORD}",
            environment,
            signal.SIGINT,  # SIGTERM would leave its children behind
            0o077,
        ),
        Service(
            "triton",
            [*python, "components.cli.main", "serve", "--install", "--live=serving/live", *listen],
            [triton, triton + 1, triton + 2],
            f"http://127.0.0.1:{triton}/v2/models/video_reward/ready",
            f"reelign score clip.mp4 --prompt TEXT --triton http://127.0.0.1:{triton}",
        ),
    ]


@app.command()
def up(
    mlflow: Annotated[int, typer.Option(help="Port.")] = 5000,
    airflow: Annotated[int, typer.Option(help="Port.")] = 8080,
    triton: Annotated[int, typer.Option(help="Port of HTTP; gRPC and metrics get the next two.")] = 8000,
) -> None:
    """Start the services that are not running, and return when all respond; a failed start stops those just started."""
    profile = load_params().profile
    for folder in (FOLDER, Path(".airflow")):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # Airflow prints its admin's password, and keeps it in a file
    relocate(STORE_FILE.absolute())
    chosen = services(mlflow, airflow, triton)
    if not MODEL_REPOSITORY.exists():
        say(f"triton    left out: {MODEL_REPOSITORY} is missing, `dvc repro package` makes it")
        chosen = [service for service in chosen if service.name != "triton"]
    missing = [service for service in chosen if running(service.name) is None]
    for service in chosen:
        if service in missing and not all(map(is_free, service.ports)):
            raise BadInput(f"--{service.name}", f"another process listens on one of {service.ports}")
        known = None if service in missing else record(service.name)
        if known is not None and known["ports"] != service.ports:
            raise BadInput(f"--{service.name}", f"runs on {known['ports']}; `make down` stops it")
    with ExitStack() as undo:
        for service in missing:
            start(service)
            undo.callback(stop, service.name)
        for service in chosen:
            wait(service)
            page = f"{service.about}{runs_page(mlflow, profile)}" if service.name == "mlflow" else service.about
            say(f"{service.name:9} http://127.0.0.1:{service.ports[0]}  {page}")
        undo.pop_all()


@app.command()
def down() -> None:
    """Stop the services that `up` started."""
    for file in sorted(FOLDER.glob("*.json")):
        stop(file.stem)
        say(f"{file.stem:9} stopped")


def start(service: Service) -> None:
    os.close(os.open(service.log, os.O_WRONLY | os.O_CREAT, 0o600))  # wait may read it before bounded_log has begun
    log = subprocess.Popen(
        [sys.executable, "-I", bounded_log.__file__, service.log],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert log.stdin is not None  # a pipe
    with log.stdin as pipe:
        process = subprocess.Popen(
            service.command, env=os.environ | service.environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe,
            start_new_session=True, umask=service.umask,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored by what a shell runs in background
        )  # fmt: skip
    made = psutil.Process(process.pid).create_time()
    known = {"pid": process.pid, "created": made, "ports": service.ports, "stop": service.stop}
    atomic_write(FOLDER / f"{service.name}.json", json.dumps(known))


def record(name: str) -> dict | None:
    """What is known of a service that was started; None where that is nothing, or damaged: then the file is removed."""
    file = FOLDER / f"{name}.json"
    if not file.exists():
        return None
    try:
        known = json.loads(file.read_bytes())
        return {key: known[key] for key in ("pid", "created", "ports", "stop")}
    except (ValueError, TypeError, KeyError):
        discard(file, "no record of a service; one that still runs has to be ended by hand")
        return None


def running(name: str) -> psutil.Process | None:
    """The process of a service, if it is still the one that was started; in a copied checkout it is another's."""
    known = record(name)
    if known is None:
        return None
    try:
        process = psutil.Process(known["pid"])
        same = process.create_time() == known["created"] and process.status() != psutil.STATUS_ZOMBIE
        same = same and process.cwd() == str(Path.cwd())
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def wait(service: Service) -> None:
    """Return when the service responds; BadInput with its last log lines where it ends or times out."""
    deadline = time.monotonic() + START_SECONDS
    while not answers(service.ready):
        if running(service.name) is None or time.monotonic() > deadline:
            time.sleep(1)  # its last words pass through bounded_log
            lines = service.log.read_text(errors="replace").splitlines()
            raise BadInput(service.log, f"{service.name} did not start:\n" + "\n".join(lines[-15:]))
        time.sleep(0.3)


def runs_page(port: int, profile: str) -> str:
    """MLflow's page of a profile's runs. Without the query, MLflow 3.17 opens the page on traces of language models for any
    experiment."""
    address, runs = f"http://127.0.0.1:{port}", ""
    asked = f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=reelign-{profile}"
    with suppress(urllib.error.HTTPError), urllib.request.urlopen(asked, timeout=30) as answer:  # 404: nothing has run yet
        runs = f"/{json.load(answer)['experiment']['experiment_id']}/runs"
    return f"{address}/#/experiments{runs}?workflowType=machine_learning"


def stop(name: str) -> None:
    """End a service and its children, by an orderly stop if possible and by a kill after STOP_SECONDS."""
    process, known = running(name), record(name)
    if process is not None and known is not None:
        end(process, signal.Signals(known["stop"]), STOP_SECONDS)
    (FOLDER / f"{name}.json").unlink(missing_ok=True)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    with exit_codes():
        app()
