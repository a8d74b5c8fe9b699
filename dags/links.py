"""The link from a task to its stage's run in MLflow.

The task looks the run up at its end, by MLflow's HTTP API, and keeps the address; Airflow's page shows it as a button. No
plugin is needed. A task without its own run, as where a stage was run before, links to that of the whole DAG run; a
server that does not answer costs a few seconds and the link, and no task.
"""

import base64
import json
import os
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow.sdk import BaseOperator, BaseOperatorLink

from components.errors import without_passwords

PAGE = "REELIGN_MLFLOW_PAGE"  # MLflow's address in a browser, where it is another than from the tasks
TIMEOUT = 5  # seconds for each of two requests


class MLflowRun(BaseOperatorLink):
    name = "MLflow run"

    def __init__(self, stage: str):
        self.stage = stage

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        server = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not server.startswith(("http://", "https://")):
            return ""  # a store in a file has no page
        try:
            return run_page(server.rstrip("/"), ti_key.run_id, self.stage)
        except (OSError, ValueError, KeyError) as error:
            print(f"no link to MLflow: {without_passwords(str(error))}")
            return ""


def run_page(server: str, dag_run: str, stage: str) -> str:
    """Address of the newest run of a stage in a DAG run; else of the DAG run's own; else ""."""
    experiments = ask(server, "experiments/search", {"max_results": 1000, "filter": "name LIKE 'reelign-%'"})
    ids = [experiment["experiment_id"] for experiment in experiments.get("experiments", [])]
    wanted = f"tags.`airflow.run_id` = '{dag_run}'"
    newest = {"experiment_ids": ids, "filter": wanted, "max_results": 1000, "order_by": ["attributes.start_time DESC"]}
    found = ask(server, "runs/search", newest).get("runs", []) if ids else []
    own = [run for run in found if tag(run, "dvc.stage") == stage]
    whole = [run for run in found if tag(run, "execution")]
    for run in (*own, *whole):
        page = os.environ.get(PAGE, "").rstrip("/") or without_passwords(server)
        return f"{page}/#/experiments/{run['info']['experiment_id']}/runs/{run['info']['run_id']}"
    return ""


def tag(run: dict[str, Any], key: str) -> str | None:
    return next((tag["value"] for tag in run["data"].get("tags", []) if tag["key"] == key), None)


def ask(server: str, what: str, body: dict[str, Any]) -> dict[str, Any]:
    """An answer of MLflow's API 2.0. Credentials as MLflow's own client takes them: of the address, or of variables."""
    address = urlsplit(server)
    headers = {"Content-Type": "application/json"}
    user = unquote(address.username or "") or os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = unquote(address.password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    place = address._replace(netloc=address.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(f"{place}/api/2.0/mlflow/{what}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        return json.load(answer)
