"""MLflow: one parent run a pipeline execution, a child run a stage, registered models.

The store is sqlite beside the checkout unless MLFLOW_TRACKING_URI says otherwise. A pipeline execution is one Airflow
DAG run or one `dvc` process; a stage started by hand is an execution of its own.

A run names what it read and what it made by digest (tags `data.inputs`, `data.outputs`), so that `reelign lineage` finds
its way from any file back to the source.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.errors import Unreachable
from components.params import Params
from components.pipeline_run import dvc_run
from components.tables import read_table

STORE = "sqlite:///mlflow.db"
ARTIFACTS = "mlartifacts"
CHALLENGER = "challenger"  # the alias of a model's newest version; `reelign promote` makes champions of them
FACTS = "video_reward.json"  # the file of components/reward/model.py, whose import takes seconds
SEEN = "seen_prompts.json"  # the artifact of a run that registers: prompts that the model learnt from
# Where a stage finds the prompts it learns from. Validation's count: thresholds and normalisation are fitted on them.
LEARNT_FROM = {
    "data/pairs": ("data/pairs/train.parquet", "data/pairs/validation.parquet"),
    "data/candidates/candidates.parquet": ("data/candidates/candidates.parquet",),
}
# Stages whose figures are of models that other stages registered.
MEASURED_BY = {"reward_bench": "models/video_reward", "evaluate": "models/aligned/"}


@contextmanager
def answering() -> Iterator[None]:
    """Unreachable in place of MLflow's own errors where its server does not answer."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except (MlflowException, RequestException) as error:
        if not isinstance(error, RequestException) and not isinstance(error.__context__, RequestException):
            raise
        where = os.environ.get("MLFLOW_TRACKING_URI", STORE)
        raise Unreachable(where, f"MLflow does not answer ({type(error.__context__ or error).__name__})") from error


def mlflow_client() -> Any:
    """A quiet MlflowClient of the store."""
    # Progress bars and the banner of the job server have no place in a stage's log.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import logging

    import mlflow

    for name in ("mlflow", "mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", STORE))
    return mlflow.MlflowClient()


class ChildRun:
    """The MLflow run of one stage, below the run of its pipeline execution.

    inputs: digests of all that the stage reads, by path.
    """

    @answering()
    def __init__(self, stage: str, digest: str, definition: dict[str, Any], params: Params, inputs: dict[str, str]):
        from mlflow.entities import Param

        self.client = mlflow_client()
        self.stage = stage
        self.params = params
        self.deps = definition["deps"]
        self.registrations: list[tuple[str, Path, dict[str, str]]] = []
        self.figures: dict[str, float] = {}  # those of the stage as a whole
        self.inputs = {path: made for path, made in inputs.items() if not path.startswith("components/")}
        experiment = _experiment(self.client, f"reelign-{params.profile}")
        chosen = chosen_params(params, definition["params"])
        tags = {
            "git.commit": git_commit(),
            "dvc.stage": stage,
            "dvc.lock.md5": file_md5("dvc.lock"),
            "data.digest": digest,
            "data.inputs": json.dumps(self.inputs),
            "params.digest": hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16],
        }
        if "AIRFLOW_CTX_DAG_RUN_ID" in os.environ:
            tags["airflow.run_id"] = os.environ["AIRFLOW_CTX_DAG_RUN_ID"]
        execution = execution_id()
        parent = _parent_run(self.client, experiment, execution, tags)
        run = self.client.create_run(experiment, run_name=stage, tags={**tags, "mlflow.parentRunId": parent})
        self.id = run.info.run_id
        self.origin = {**tags, "execution": execution}  # what a version of a model says of where it came from
        self.client.log_batch(self.id, params=[Param(key, str(value)) for key, value in chosen.items()])

    @answering()
    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        import time

        from mlflow.entities import Metric

        if step is None:
            self.figures |= metrics
        now = int(time.time() * 1000)
        self.client.log_batch(self.id, [Metric(k, float(v), now, step or 0) for k, v in metrics.items()])

    @answering()
    def close(self, status: str, seconds: float, outputs: dict[str, str]) -> None:
        """`outputs`: digests of what the stage made, by path; none of a stage that failed."""
        figures = dict(self.figures)
        self.log({"seconds": seconds})
        if status == "FINISHED":
            self.client.set_tag(self.id, "data.outputs", json.dumps(outputs))
            for model, folder, tags in self.registrations:
                self._register(model, folder, {**tags, "model.digest": outputs[str(folder)]})
            self._measured(figures)
        self.client.set_terminated(self.id, status)

    def _register(self, model: str, folder: Path, tags: dict[str, str]) -> None:
        """A new version of `model`, which becomes the challenger. All of it is there before the alias points to it."""
        from mlflow.exceptions import MlflowException

        self.client.log_artifacts(self.id, str(folder), artifact_path=model)
        self.client.log_dict(self.id, prompts_learnt_from(self.deps), SEEN)
        try:
            self.client.get_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self.client.create_registered_model(model)
        source = f"{self.client.get_run(self.id).info.artifact_uri}/{model}"
        facts = {**self.origin, "signature": json.dumps(signature(folder, self.params)), **tags}
        made = self.client.create_model_version(model, source=source, run_id=self.id, tags=facts)
        self.client.set_registered_model_alias(model, CHALLENGER, made.version)

    def _measured(self, figures: dict[str, float]) -> None:
        """Tell the versions that this stage has measured: the run, and its figures."""
        if self.stage not in MEASURED_BY:
            return
        for path in [path for path in self.inputs if path.startswith(MEASURED_BY[self.stage])]:
            method = Path(path).name
            own = {key: value for key, value in figures.items() if self.stage != "evaluate" or method in key.split("/")}
            for version in self.client.search_model_versions(f"tags.`model.digest` = '{self.inputs[path]}'"):
                for key, value in {"run": self.id, "figures": json.dumps(own)}.items():
                    self.client.set_model_version_tag(version.name, version.version, f"{self.stage}.{key}", value)


def signature(folder: Path, params: Params) -> dict[str, Any]:
    """What a registered model takes and gives."""
    if (folder / FACTS).exists():
        facts = json.loads((folder / FACTS).read_text())
        scores = list(dict.fromkeys([*facts["dimensions"], "Overall"]))
        return {
            "inputs": {"video": "a file, or uint8 [T, H, W, 3] and its fps", "prompt": "text"},
            "outputs": {"raw": facts["dimensions"], "normalised": scores},
            "frame_plan": facts["frame_plan"],
        }
    drawn = params.sampling
    clip = {"video": f"uint8 [{drawn.frames}, {drawn.height}, {drawn.width}, 3]", "fps": drawn.fps}
    return {"inputs": {"prompt": "text", "seed": "int"}, "outputs": clip}


def prompts_learnt_from(deps: list[str]) -> list[str]:
    """All prompts that a stage with these inputs sees, sorted."""
    files = [file for dep in deps for file in LEARNT_FROM.get(dep, ())]
    return sorted({row["prompt"] for file in files for row in read_table(file)})


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    from mlflow.exceptions import MlflowException

    # The artifacts of the embedded store lie beside it; a tracking server decides for itself.
    store = os.environ.get("MLFLOW_TRACKING_URI", STORE)
    embedded = store.startswith("sqlite:///")
    location = Path(store.removeprefix("sqlite:///")).absolute().with_name(ARTIFACTS).as_uri() if embedded else None
    try:
        return client.create_experiment(name, artifact_location=location)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return client.get_experiment_by_name(name).experiment_id  # another task of the DAG run was first


def _parent_run(client: Any, experiment: str, execution: str, tags: dict[str, str]) -> str:
    first = ["attributes.start_time ASC"]  # tasks that began together may have made two
    found = client.search_runs([experiment], f"tags.execution = '{execution}'", max_results=1, order_by=first)
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

    process = dvc_run() or psutil.Process()
    return hashlib.sha256(f"{process.pid}:{process.create_time()}".encode()).hexdigest()[:16]


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
