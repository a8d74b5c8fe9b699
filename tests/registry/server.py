"""A real MLflow server that a test may kill and start again on the same store."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import requests

from tests.running import until


class Server:
    def __init__(self, folder: Path):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        self.log = open(self.folder / "server.log", "a")  # noqa: SIM115 - open as long as the server
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
                *("--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--workers", "1"),
                *("--artifacts-destination", str(self.folder / "server-artifacts")),
            ],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,  # a group of its own, to be killed whole
        )
        until(self.healthy, "MLflow server")

    def healthy(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=5).ok
        except (requests.ConnectionError, requests.Timeout):
            return False

    def kill(self) -> None:
        """kill -9 of the server and all that it started, at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
