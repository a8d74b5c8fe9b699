"""Artifacts of MLflow: which runs and models on record need them, and which were left by runs that were deleted.

A version of a registered model needs the files of its run and of its LoggedModel, whatever became of the run. MLflow keeps
the artifacts of deleted runs until somebody removes them.
"""

import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from components.orchestration.storage.item import Item, dropped, kept, size_of
from components.pipeline.logged_models import logged_id
from components.pipeline.mlflow_store import (
    ARTIFACTS,
    all_pages,
    answering,
    artifact_place,
    embedded_store,
    mlflow_client,
)

KIND = "MLflow artifacts"
VERSION = "files of a registered version"


@answering()
def artifact_items(since: float, days: int) -> list[Item]:
    """since: of the epoch; what was deleted later stays. Unreachable where a server does not answer."""
    store = embedded_store()
    if store is not None and not store.exists():
        return []
    from mlflow.entities import ViewType

    client = mlflow_client()
    versions = list(all_pages(client.search_model_versions))
    needed = {version.run_id for version in versions} | {logged_id(version) for version in versions}
    experiments = [one.experiment_id for one in all_pages(client.search_experiments, view_type=ViewType.ALL)]
    runs = {
        run.info.run_id: run
        for run in all_pages(client.search_runs, experiments, run_view_type=ViewType.ALL, max_results=1000)
    }
    models = {model.model_id: model for model in all_pages(client.search_logged_models, experiments)}
    items = [item(run.info.artifact_uri, why(run, needed, since, days)) for run in runs.values()]
    for model in models.values():
        run = runs.get(model.source_run_id)
        stays = (
            VERSION
            if model.model_id in needed
            else "its model is on record"
            if run is None
            else why(run, set(), since, days)
        )
        items.append(item(model.artifact_location, stays))
    if store is not None:
        items += orphans(store.with_name(ARTIFACTS), {*runs, *models}, since, days)
    return [one for one in items if one.held]


def why(run: Any, needed: set[str | None], since: float, days: int) -> str | None:
    """Why the artifacts of a run stay; None where they may go."""
    if run.info.run_id in needed:
        return VERSION
    if run.info.lifecycle_stage != "deleted":
        return "its stage runs, or was killed" if run.info.status == "RUNNING" else "its run is on record"
    if max(run.info.end_time or 0, run.info.start_time or 0) / 1000 >= since:
        return f"its run is of the last {days} days"
    return None


def item(location: str, stays: str | None) -> Item:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    place = artifact_place(location)
    repository = None if ":/" not in place and not Path(place).exists() else get_artifact_repository(place)
    held = 0 if repository is None else size_of(Path(place))[0] if ":/" not in place else sum(sizes(repository, ""))
    if repository is None or stays is not None:
        return kept(KIND, place, held, stays or "nothing is there")
    return dropped(KIND, place, (held, held), "its run was deleted in MLflow", repository.delete_artifacts)


def sizes(repository: Any, path: str) -> Iterator[int]:
    """Bytes of all files of an artifact location on a server."""
    for entry in repository.list_artifacts(path):
        if entry.is_dir:
            yield from sizes(repository, entry.path)
        else:
            yield entry.file_size or 0


def orphans(folder: Path, known: set[str], since: float, days: int) -> list[Item]:
    """Folders of an embedded store that no run and no model on record has."""
    found = []
    for place in (*folder.glob("*"), *folder.glob("models/*")):
        if place.is_dir() and re.fullmatch(r"[0-9a-f]{32}|m-[0-9a-f]{32}", place.name) and place.name not in known:
            if place.stat().st_mtime >= since:
                found.append(kept(KIND, place, size_of(place)[0], f"written in the last {days} days"))
            else:
                found.append(dropped(KIND, place, size_of(place), "no run on record has it", partial(shutil.rmtree, place)))
    return found
