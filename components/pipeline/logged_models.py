"""MLflow's own records of models and data sets, so that its pages show what a version is, how good it is, and its origin.

A registered model that is an MLflow model is a LoggedModel of the run that made it: MLmodel, requirements and files lie at
the LoggedModel's place, and the metrics of runs are linked to it. Data sets are named by the digest of their files, which
`reelign lineage` takes.
"""

import json
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from components.contracts import ALIGNMENT_PAIRS, CANDIDATES, PAIRS, SOURCE_VIDEOS
from components.files.atomic import whole_folder
from components.pipeline.mlflow_store import artifact_place

# Writes an MLflow model of a folder at a place that is not there; the last argument is MLflow's Model to fill in.
Package = Callable[[Path, Path, Any], None]
# Inputs of stages that MLflow shows as data sets, by path.
DATASETS = {
    str(PAIRS): "pairs",
    str(SOURCE_VIDEOS): "clips",
    f"{CANDIDATES}/candidates.parquet": "candidates",
    str(ALIGNMENT_PAIRS): "alignment_pairs",
}
MEASURING = ("reward_bench", "evaluate", "tradeoff")  # stages that read data to measure; others learn from it
CONTEXT = "mlflow.data.context"
LOGGED = "models:/"  # before the id of a LoggedModel, in the source of a version


def log_model(
    client: Any, run: Any, name: str, folder: Path, package: Package, tags: dict[str, str], metrics: Iterable[Any]
) -> Any:
    """The LoggedModel of `folder`, packaged, as an output of a run (MLflow's record of it), with these metrics of the run
    linked to it. It is complete when it is READY, and FAILED where packaging raises."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    logged = client.create_logged_model(run.info.experiment_id, name, run.info.run_id, tags, model_type="reward model")
    with ExitStack() as undo:
        undo.callback(client.finalize_logged_model, logged.model_id, "FAILED")
        made = Model(artifact_path=name, run_id=run.info.run_id, model_id=logged.model_id)
        store_model(artifact_place(logged.artifact_location), folder, package, made)
        undo.pop_all()
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, 0)])
    link_metrics(client, run.info.run_id, logged.model_id, metrics, datasets_of(run))
    return logged


def store_model(place: str, folder: Path, package: Package, model: Any) -> None:
    """Package a folder at an artifact location. A store here gets it without a copy in between."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if ":/" not in place:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(Path(place)) as partial:
            package(folder, partial, model)
        return
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as near:  # where large files can be linked
        packaged = Path(near) / "model"
        package(folder, packaged, model)
        get_artifact_repository(place).log_artifacts(str(packaged))


def link_metrics(client: Any, run_id: str, model_id: str, metrics: Iterable[Any], dataset: Any | None) -> None:
    """Link metrics that a run has logged to a model, and to the data set that they were measured on."""
    from mlflow.entities import Metric

    on = (dataset.name, dataset.digest) if dataset else (None, None)
    linked = [Metric(one.key, one.value, one.timestamp, one.step, model_id, *on) for one in metrics]
    client.log_batch(run_id, linked)


def logged_id(version: Any) -> str | None:
    """Id of the LoggedModel that a registered version (MLflow's record) is; None for files of a run. MLflow's SQL store
    keeps it in the source alone: `model_id` is None."""
    return version.source.removeprefix(LOGGED) if version.source.startswith(LOGGED) else None


def log_datasets(client: Any, run_id: str, stage: str, inputs: dict[str, str]) -> None:
    """Record the data sets among a stage's inputs (digests by path) as inputs of its run."""
    from mlflow.entities import DatasetInput, InputTag

    context = InputTag(CONTEXT, "evaluation" if stage in MEASURING else "training")
    found = [DatasetInput(dataset(path, digest), [context]) for path, digest in inputs.items() if path in DATASETS]
    if found:
        client.log_inputs(run_id, datasets=found)


def dataset(path: str, digest: str) -> Any:
    """MLflow's record of a table, a folder of tables or a folder of files, with its columns and rows or number of files."""
    from mlflow.entities import Dataset

    place = Path(path)
    tables = [place] if place.suffix == ".parquet" else sorted(place.glob("*.parquet"))
    if tables:
        profile = {table.stem: pq.read_metadata(table).num_rows for table in tables}
        columns = [{"type": str(field.type), "name": field.name, "required": False} for field in pq.read_schema(tables[0])]
        schema = json.dumps({"mlflow_colspec": columns})
    else:
        profile, schema = {"files": sum(1 for file in place.rglob("*") if file.is_file())}, None
    return Dataset(DATASETS[path], digest, "local", json.dumps({"uri": path}), schema, json.dumps(profile))


def datasets_of(run: Any) -> Any | None:
    """The data set that figures of a run are of: its pairs, where it reads some."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return next((one.dataset for one in inputs if one.dataset.name == "pairs"), None)
