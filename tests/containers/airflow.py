"""`airflow dags test` of the DAGs in dags/cases.py, with a database of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.containers.engine import FOLDER, REPOSITORY

AIRFLOW = Path(sys.executable).with_name("airflow")


class Airflow:
    def __init__(self, **environment: str):
        """environment: what the tasks' runner and connections need."""
        own = {
            "AIRFLOW_HOME": str(FOLDER / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
            "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).with_name("dags")),
            "PYTHONPATH": str(REPOSITORY),
        }
        self.environment = os.environ | own | environment
        subprocess.run([AIRFLOW, "db", "migrate"], env=self.environment, check=True, capture_output=True)

    def start(self, name: str, case: dict) -> subprocess.Popen:
        """Begin a run of the DAG of `case`."""
        environment = self.environment | {"REELIGN_CASES": json.dumps({name: case})}
        return subprocess.Popen(
            [AIRFLOW, "dags", "test", name], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )  # fmt: skip

    def run(self, name: str, case: dict, code: int = 0, patience: float = 600) -> str:
        """Run it to its end, green (code 0) or red (1); what was logged."""
        return ended(self.start(name, case), code, patience)


def ended(process: subprocess.Popen, code: int, patience: float = 600) -> str:
    said, _ = process.communicate(timeout=patience)
    assert process.returncode == code, f"exit code {process.returncode}\n{said}"
    return said
