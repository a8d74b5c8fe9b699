"""MLflow: one parent run a pipeline execution, a child run a stage, registered models.

The store is sqlite beside the checkout unless MLFLOW_TRACKING_URI says otherwise. A pipeline execution is one Airflow
DAG run or one `dvc` process; a stage started by hand is an execution of its own.
"""

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

from components.params import Params

STORE = "sqlite:///mlflow.db"
ARTIFACTS = "mlartifacts"


class ChildRun:
    """The MLflow run of one stage, below the run of its pipeline execution."""

    def __init__(self, stage: str, digest: str, definition: dict[str, Any], params: Params):
        # Progress bars and the banner of the job server have no place in a stage's log.
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        import logging

        import mlflow
        from mlflow.entities import Param

        for name in ("mlflow", "mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", STORE))
        self.client = mlflow.MlflowClient()
        self.stage = stage
        self.registrations: list[tuple[str, Path, dict[str, str]]] = []
        experiment = _experiment(self.client, f"reelign-{params.profile}")
        tags = {
            "git.commit": git_commit(),
            "dvc.stage": stage,
            "dvc.lock.md5": file_md5("dvc.lock"),
            "data.digest": digest,
        }
        if "AIRFLOW_CTX_DAG_RUN_ID" in os.environ:
            tags["airflow.run_id"] = os.environ["AIRFLOW_CTX_DAG_RUN_ID"]
        execution = execution_id()
        parent = _parent_run(self.client, experiment, execution, tags)
        run = self.client.create_run(experiment, run_name=stage, tags={**tags, "mlflow.parentRunId": parent})
        self.id = run.info.run_id
        chosen = chosen_params(params, definition["params"])
        self.client.log_batch(self.id, params=[Param(key, str(value)) for key, value in chosen.items()])

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.id, [Metric(k, float(v), now, step or 0) for k, v in metrics.items()])

    def close(self, status: str, seconds: float) -> None:
        self.log({"seconds": seconds})
        if status == "FINISHED":
            for model, folder, tags in self.registrations:
                self._register(model, folder, tags)
        self.client.set_terminated(self.id, status)

    def _register(self, model: str, folder: Path, tags: dict[str, str]) -> None:
        from mlflow.exceptions import MlflowException

        self.client.log_artifacts(self.id, str(folder), artifact_path=model)
        try:
            self.client.get_registered_model(model)
        except MlflowException:
            self.client.create_registered_model(model)
        source = f"{self.client.get_run(self.id).info.artifact_uri}/{model}"
        self.client.create_model_version(model, source=source, run_id=self.id, tags=tags)


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    # The artifacts of the embedded store lie beside it; a tracking server decides for itself.
    location = None if "MLFLOW_TRACKING_URI" in os.environ else Path(ARTIFACTS).absolute().as_uri()
    return client.create_experiment(name, artifact_location=location)


def _parent_run(client: Any, experiment: str, execution: str, tags: dict[str, str]) -> str:
    found = client.search_runs([experiment], f"tags.execution = '{execution}'", max_results=1)
    if found:
        return found[0].info.run_id
    keep = {key: value for key, value in tags.items() if key in ("git.commit", "airflow.run_id")}
    run = client.create_run(experiment, run_name="pipeline", tags={"execution": execution, **keep})
    client.set_terminated(run.info.run_id, "FINISHED")  # a container of runs: its children have the status
    return run.info.run_id


def execution_id() -> str:
    """Names the pipeline execution this process belongs to."""
    if "AIRFLOW_CTX_DAG_RUN_ID" in os.environ:
        return os.environ["AIRFLOW_CTX_DAG_RUN_ID"]
    import psutil

    for process in [psutil.Process(), *psutil.Process().parents()]:
        words = process.cmdline()
        if any(Path(word).name == "dvc" for word in words[:3]):
            return hashlib.sha256(f"{process.pid}:{process.create_time()}".encode()).hexdigest()[:16]
    own = psutil.Process()
    return hashlib.sha256(f"{own.pid}:{own.create_time()}".encode()).hexdigest()[:16]


def chosen_params(params: Params, keys: list[str]) -> dict[str, Any]:
    """The params a stage depends on, flattened: {"align.dpo.beta": 500.0, ...}."""
    tree = params.model_dump()
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}", inner)
        else:
            flat[prefix] = value

    for key in keys:
        value = tree
        for part in key.split("."):
            value = value[part]
        walk(key, value)
    return flat


def git_commit() -> str:
    """HEAD, with "-dirty" where the tree differs; "none" outside a git checkout."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode != 0:
        return "none"
    # What DVC writes while it runs (dvc.lock, metrics) does not make a run's code another one.
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "components", "dvc.yaml", "params.yaml"])
    return head.stdout.strip() + ("-dirty" if changed.returncode else "")


def file_md5(path: str) -> str:
    if not Path(path).exists():
        return "none"
    return hashlib.md5(Path(path).read_bytes()).hexdigest()
