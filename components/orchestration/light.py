"""The light form of `make up`: MLflow and Airflow on SQLite, and Triton."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

from components.orchestration.service import Service
from components.pipeline.mlflow_store import ARTIFACTS
from components.serving.server import answers

STORE_FILE = Path("mlflow.db")
HOME = Path(".airflow")
PASSWORD = HOME / "simple_auth_manager_passwords.json.generated"


def light_services(mlflow: int, airflow: int, triton: int) -> list[Service]:
    python = [sys.executable, "-m"]
    store = ["--backend-store-uri", f"sqlite:///{STORE_FILE}", "--artifacts-destination", ARTIFACTS]
    database = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME.absolute()}/airflow.db"}
    return [
        Service(
            "mlflow",
            [*python, "mlflow", "server", "--host=127.0.0.1", f"--port={mlflow}", "--workers=1", *store],
            [mlflow],
            partial(answers, f"http://127.0.0.1:{mlflow}/health"),
            "runs and models: ",
            os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        ),
        Service(
            "airflow",
            [airflow_program(), "standalone"],
            [airflow],
            partial(answers, f"http://127.0.0.1:{airflow}/api/v2/monitor/health"),
            f"DAGs; user admin, password in {PASSWORD}",
            os.environ | airflow_environment(HOME.absolute(), airflow) | database,
            signal.SIGINT,  # SIGTERM would leave its children behind
            0o077,
        ),
        Service(
            "triton",
            [*python, "components.cli.main", "serve", "--install", "--live=serving/live", *triton_ports(triton)],
            [triton, triton + 1, triton + 2],
            partial(answers, f"http://127.0.0.1:{triton}/v2/models/video_reward/ready"),
            f"reelign score clip.mp4 --prompt TEXT --triton http://127.0.0.1:{triton}",
        ),
    ]


def airflow_program() -> str:
    return str(Path.cwd() / ".venv-orchestrator/bin/airflow")


def airflow_environment(home: Path, port: int) -> dict[str, str]:
    """Settings of an Airflow of this checkout with the API server on this port of the loopback. Airflow writes paths into
    airflow.cfg once, but the checkout may have been moved or copied since."""
    here = Path.cwd()
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(home / "logs/dag_processor"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
        "AIRFLOW__FAB__CONFIG_FILE": str(home / "webserver_config.py"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(here / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "PATH": f"{here}/.venv-orchestrator/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(here),
    }


def triton_ports(first: int) -> list[str]:
    """Options of `reelign serve`: three ports in a row."""
    return [f"--{kind}-port={first + place}" for place, kind in enumerate(("http", "grpc", "metrics"))]
