"""MLflow: one parent run per pipeline execution, one child run per stage, registered models.

A pipeline execution is one Airflow DAG run or one `dvc` process; a stage started by hand is a separate execution.

A run records the digests of its inputs and outputs (tags `data.inputs`, `data.outputs`), so that `reelign lineage` can trace
any file back to the source.
"""

import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

from components.config.params import Params
from components.contracts import ALIGNED, CANDIDATES, CHALLENGER, PAIRS, VIDEO_REWARD
from components.errors import BadInput
from components.files.tables import read_table
from components.pipeline.logged_models import (
    LOGGED,
    Package,
    datasets_of,
    link_metrics,
    log_datasets,
    log_model,
    logged_id,
)
from components.pipeline.mlflow_store import (
    ARTIFACTS,
    PATIENCE,
    all_pages,
    answering,
    artifacts_of,
    await_server,
    embedded_store,
    mlflow_client,
    one_at_a_time,
    relocate,
)
from components.pipeline.pipeline_run import dvc_run

REWARD, GENERATOR = "video_reward", "generator_"  # short names of registered models
FULL_NAME = re.compile(r"reelign-(.+)-(?:video-reward|aligned-.+)")
FACTS = "video_reward.json"  # the file of components/reward/model.py, whose import takes seconds
SEEN = "seen_prompts.json"  # artifact of a run that registers a model: its training prompts
# Files with a stage's training prompts. Validation counts: thresholds and normalisation are fitted on it.
LEARNT_FROM = {
    str(PAIRS): (f"{PAIRS}/train.parquet", f"{PAIRS}/validation.parquet"),
    f"{CANDIDATES}/candidates.parquet": (f"{CANDIDATES}/candidates.parquet",),
}
# Stages that measure models which other stages registered.
MEASURED_BY = {"reward_bench": VIDEO_REWARD, "evaluate": f"{ALIGNED}/"}
# With this tag MLflow's page shows runs and metrics of an experiment, without it traces of language models.
KIND = {"mlflow.experimentKind": "custom_model_development"}
CLOSING = 240.0  # seconds that a finished stage waits for a server, as hours of work depend on it


def full_name(model: str, profile: str) -> str:
    """The registered model of a short name: `video_reward` and `generator_METHOD` are those of the profile, as models of two
    profiles are never compared. Any other name is returned unchanged."""
    if model == REWARD:
        return f"reelign-{profile}-video-reward"
    if model.startswith(GENERATOR):
        return f"reelign-{profile}-aligned-{model.removeprefix(GENERATOR)}"
    return model


def profile_of(version: Any) -> str | None:
    """The profile of a model version (MLflow's, or that of components/registry/versions.py); None where neither its tags nor
    its model's name have it."""
    named = FULL_NAME.fullmatch(version.name)
    return version.tags.get("profile", named and named[1])


class ChildRun:
    """The MLflow run of one stage, below the run of its pipeline execution.

    inputs: digests of the stage's inputs, by path.
    """

    @answering()
    def __init__(self, stage: str, digest: str, definition: dict[str, Any], params: Params, inputs: dict[str, str]):
        from mlflow.entities import Param

        self.client = mlflow_client()
        self.stage = stage
        self.params = params
        self.deps = definition["deps"]
        self.registrations: list[tuple[str, Path, dict[str, str], Package | None]] = []
        self.figures: dict[str, float] = {}  # those of the stage as a whole
        self.newest: dict[str, Any] = {}  # MLflow's record of the last value of each metric
        self.inputs = {path: made for path, made in inputs.items() if not path.startswith("components/")}
        experiment = _experiment(self.client, params.profile)
        chosen = chosen_params(params, definition["params"])
        commit = git_commit()
        tags = {
            "git.commit": commit,
            "profile": params.profile,
            "dvc.stage": stage,
            "dvc.lock.md5": file_md5("dvc.lock"),
            "data.digest": digest,
            "data.inputs": json.dumps(self.inputs),
            "params.digest": hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16],
        }
        if "AIRFLOW_CTX_DAG_RUN_ID" in os.environ:
            tags["airflow.run_id"] = os.environ["AIRFLOW_CTX_DAG_RUN_ID"]
        execution = execution_id()
        self.parent = _parent_run(self.client, experiment, params.profile, execution, tags)
        shown = {
            "mlflow.parentRunId": self.parent,
            "mlflow.note.content": definition["desc"],
            "mlflow.source.name": definition["cmd"],
            "mlflow.source.git.commit": commit,
        }
        run = self.client.create_run(experiment, run_name=stage, tags={**tags, **shown})
        self.id = run.info.run_id
        self.origin = {**tags, "execution": execution}  # recorded in the model's version
        said = {"profile": params.profile, **chosen}
        self.client.log_batch(self.id, params=[Param(key, str(value)) for key, value in said.items()])
        log_datasets(self.client, self.id, stage, self.inputs)

    @answering()
    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step is None:
            self.figures |= metrics
        records = as_metrics(metrics, step or 0)
        self.newest |= {record.key: record for record in records}
        self.client.log_batch(self.id, records)

    @answering()
    def close(self, status: str, seconds: float, outputs: dict[str, str]) -> None:
        """`outputs`: digests of the stage's outputs, by path; empty for a failed stage."""
        if embedded_store() is None:
            await_server(CLOSING if status == "FINISHED" else PATIENCE)
        figures = dict(self.figures)
        self.log({"seconds": seconds})
        if status == "FINISHED":
            self.client.set_tag(self.id, "data.outputs", json.dumps(outputs))
            for model, folder, tags, package in self.registrations:
                tags = {**tags, "model.digest": outputs[str(folder)]}
                self._register(full_name(model, self.params.profile), folder, tags, package)
            self._measured(figures)
        self.client.set_terminated(self.id, status)
        self._close_parent()

    def _close_parent(self) -> None:
        """End the parent with its last stage; it failed where the newest run of a stage failed. Of stages that end together,
        the last one finds all ended."""
        of_parent = f"tags.`mlflow.parentRunId` = '{self.parent}'"
        experiment = self.client.get_run(self.parent).info.experiment_id
        newest: dict[str, str] = {}
        for run in all_pages(self.client.search_runs, [experiment], of_parent, order_by=["start_time DESC"]):
            newest.setdefault(run.data.tags["dvc.stage"], run.info.status)
        if "RUNNING" not in newest.values():
            self.client.set_terminated(self.parent, "FAILED" if "FAILED" in newest.values() else "FINISHED")

    def _register(self, model: str, folder: Path, tags: dict[str, str], package: Package | None) -> None:
        """A new version of `model`, which becomes the challenger. It is complete before the alias points to it.

        With a `package` it is an MLflow model, a LoggedModel of this run; without one, an artifact of it."""
        from mlflow.exceptions import MlflowException

        artifacts = artifacts_of(self.client, self.id)
        with tempfile.TemporaryDirectory() as place:
            seen = Path(place) / SEEN
            seen.write_text(json.dumps(prompts_learnt_from(self.deps)))
            artifacts.log_artifact(str(seen))
        try:
            self.client.get_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self.client.create_registered_model(model, tags={"profile": self.params.profile})
        run, logged = self.client.get_run(self.id), None
        facts = {**self.origin, "signature": json.dumps(signature(folder, self.params)), **tags}
        if package:
            figures = [one for key, one in self.newest.items() if key != "seconds"]
            logged = log_model(self.client, run, folder.name, folder, package, facts, figures)
            source = f"{LOGGED}{logged.model_id}"
        else:
            artifacts.log_artifacts(str(folder), model)
            source = f"{run.info.artifact_uri}/{model}"
        found = logged and logged.model_id
        made = self.client.create_model_version(model, source=source, run_id=self.id, tags=facts, model_id=found)
        self.client.set_registered_model_alias(model, CHALLENGER, made.version)

    def _measured(self, figures: dict[str, float]) -> None:
        """Tag the measured versions of this profile with the run and its figures. Those of Overall are also logged to the
        pipeline's run."""
        if self.stage not in MEASURED_BY:
            return
        overall = {key: value for key, value in figures.items() if key.endswith("/Overall")}
        self.client.log_batch(self.parent, as_metrics(overall))
        data = datasets_of(self.client.get_run(self.id))
        for path in [path for path in self.inputs if path.startswith(MEASURED_BY[self.stage])]:
            method = Path(path).name
            own = {key: value for key, value in figures.items() if self.stage != "evaluate" or method in key.split("/")}
            records = [self.newest[key] for key in own]
            for version in all_pages(self.client.search_model_versions, f"tags.`model.digest` = '{self.inputs[path]}'"):
                if profile_of(version) != self.params.profile:
                    continue
                for key, value in {"run": self.id, "figures": json.dumps(own)}.items():
                    self.client.set_model_version_tag(version.name, version.version, f"{self.stage}.{key}", value)
                if model_id := logged_id(version):
                    link_metrics(self.client, self.id, model_id, records, data)


def signature(folder: Path, params: Params) -> dict[str, Any]:
    """Inputs and outputs of a registered model."""
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
    """All training prompts of a stage with these inputs, sorted."""
    files = [file for dep in deps for file in LEARNT_FROM.get(dep, ())]
    return sorted({row["prompt"] for file in files for row in read_table(file)})


def as_metrics(figures: Mapping[str, float], step: int = 0) -> list[Any]:
    """MLflow's Metric of each figure, as of now."""
    from mlflow.entities import Metric

    now = int(datetime.now().timestamp() * 1000)
    return [Metric(key, float(value), now, step) for key, value in figures.items()]


def _experiment(client: Any, profile: str) -> str:
    """The experiment of a profile, made where there is none. In an embedded store by one process at a time: a run that
    another began before the places are relative would keep an absolute one."""
    store = embedded_store()
    with one_at_a_time(store) if store else nullcontext():
        return _made_experiment(client, f"reelign-{profile}", store)


def _made_experiment(client: Any, name: str, store: Path | None) -> str:
    from mlflow.exceptions import MlflowException

    if client.get_experiment_by_name(name) is None:
        location = str(store.with_name(ARTIFACTS)) if store else None  # a tracking server decides for itself
        try:
            client.create_experiment(name, artifact_location=location, tags=KIND)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another task of the DAG run was first
                raise
        if store:
            relocate(store)  # MLflow makes every given location absolute
    found = client.get_experiment_by_name(name)
    if found.lifecycle_stage != "active":
        restore = f"`mlflow experiments restore -x {found.experiment_id}` brings it back"
        raise BadInput(f"experiment {name}", f"was deleted in MLflow; {restore}")
    for key, value in KIND.items():
        if key not in found.tags:
            client.set_experiment_tag(found.experiment_id, key, value)
    return found.experiment_id


def _parent_run(client: Any, experiment: str, profile: str, execution: str, tags: dict[str, str]) -> str:
    """The run of this pipeline execution, set to running."""
    first = ["attributes.start_time ASC"]  # tasks that began together may have made two
    found = client.search_runs([experiment], f"tags.execution = '{execution}'", max_results=1, order_by=first)
    if found:
        client.update_run(found[0].info.run_id, status="RUNNING")
        return found[0].info.run_id
    name = f"{profile} pipeline {datetime.now():%Y-%m-%d %H:%M}"
    keep = {key: value for key, value in tags.items() if key in ("git.commit", "profile", "airflow.run_id")}
    shown = {
        "mlflow.note.content": "One execution of the pipeline. Its stages are the runs below it.",
        "mlflow.source.name": tags.get("airflow.run_id", "dvc repro"),
        "mlflow.source.git.commit": tags["git.commit"],
    }
    run = client.create_run(experiment, run_name=name, tags={"execution": execution, **keep, **shown})
    client.log_param(run.info.run_id, "profile", profile)
    return run.info.run_id


def execution_id() -> str:
    """Id of this process's pipeline execution."""
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
    # Files that DVC writes during a run (dvc.lock, metrics) do not make the code dirty.
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "components", "dvc.yaml", "params.yaml"])
    return head.stdout.strip() + ("-dirty" if changed.returncode else "")


def file_md5(path: str) -> str:
    if not Path(path).exists():
        return "none"
    return hashlib.md5(Path(path).read_bytes()).hexdigest()
