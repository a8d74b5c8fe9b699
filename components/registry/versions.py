"""Versions of registered models: find the one that is meant, bring its files here, and know what it learnt from.

Registered models are `reelign-PROFILE-video-reward` and, a method, `reelign-PROFILE-aligned-METHOD`. Short for those of
the profile in params.yaml are `video_reward` and `generator_METHOD`. Each has an alias `champion`, which is deployed, and an
alias `challenger`, its newest version.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config.params import load_params
from components.contracts import CHAMPION, PAIRS
from components.errors import BadInput, disk_error
from components.files.atomic import discard, put_in_place
from components.files.links import share
from components.files.text import read_json
from components.pipeline.logged_models import logged_id
from components.pipeline.mlflow_store import all_pages, artifact_place, artifacts_of, embedded_store, mlflow_client
from components.pipeline.stage import SCRATCH, folder_digest
from components.pipeline.tracking import (
    FACTS,
    GENERATOR,
    LEARNT_FROM,
    REWARD,
    SEEN,
    full_name,
    profile_of,
    prompts_learnt_from,
)
from components.preferences.near import near_groups
from components.preferences.split import prompt_key

FILES = SCRATCH / "registry"
MODEL_FILES = f"artifacts/{REWARD}"  # of a version that is an MLflow model (components/reward/export_mlflow.py)


@dataclass(frozen=True)
class Version:
    """A model version whose files are in `folder`; `digest` is that of their bytes, which scores are stamped with."""

    model: str
    number: str
    run_id: str
    tags: dict[str, str]
    folder: Path
    digest: str

    def __str__(self) -> str:
        return f"{self.model}/{self.number}"

    def as_json(self) -> dict[str, Any]:
        kept = {key: value for key, value in self.tags.items() if not key.startswith("promotion.")}
        return {"version": str(self), "digest": self.digest, "run": self.run_id, "tags": kept}


def connect() -> Any:
    """An MlflowClient of the store that is there. BadInput where there is none: a look must not make one."""
    store = embedded_store()
    if store and not store.exists():
        raise BadInput(store, "missing; no stage has run in this folder (MLFLOW_TRACKING_URI names another store)")
    # A person waits, and MLflow's own defaults take many minutes to give up.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    return mlflow_client()


def registered_name(client: Any, name: str) -> str:
    """The registered model that `name` means: itself, or for `video_reward` and `generator_METHOD` that of the profile in
    params.yaml. BadInput names those there are."""
    short = name == REWARD or name.startswith(GENERATOR)
    full = full_name(name, load_params().profile) if short else name
    known = sorted(model.name for model in all_pages(client.search_registered_models))
    if full not in known:
        older = f"; {REWARD} was of all profiles, and stage reward registers under the new name" if REWARD in known else ""
        raise BadInput(full, f"no such registered model; there are {', '.join(known) or 'none'}{older}")
    return full


def refuse_other_profile(version: Any, profile: str) -> None:
    """BadInput where a version (MLflow's record) was made with another profile than that of params.yaml, whose data it would
    be compared on."""
    own = profile_of(version)
    if own not in (None, profile):
        why = f"is of profile {own}, params.yaml is profile {profile}: they have other data, and cannot be compared"
        raise BadInput(f"{version.name}/{version.version}", why)


def aliases(client: Any, model: str) -> dict[str, str]:
    """Number of the version that each alias of a model points to."""
    return {alias: str(number) for alias, number in client.get_registered_model(model).aliases.items()}


def find(client: Any, model: str, which: str) -> Any:
    """MLflow's own record of a version by its number or alias; BadInput names those there are."""
    versions = {str(version.version): version for version in all_pages(client.search_model_versions, f"name = '{model}'")}
    named = aliases(client, model) if versions else {}
    if (number := named.get(which, which)) in versions:
        return versions[number]
    have = [*sorted(versions, key=int), *sorted(named)]
    if which == CHAMPION and versions:
        raise BadInput(f"{model}/{which}", f"no version is champion yet; `reelign promote --model {model}` tries for one")
    raise BadInput(f"{model}/{which}", f"no such version; there are {', '.join(have) or 'none'}")


def fetch(record: Any) -> Version:
    """Bring a version's files here, once, and again where they are damaged. BadInput where they are missing, or are not the
    bytes that were registered. OSError of this machine's disk passes through."""
    from mlflow.exceptions import MlflowException

    folder = FILES / "versions" / record.run_id / record.name
    registered = record.tags.get("model.digest")
    if folder.exists() and registered and folder_digest(folder) != registered:
        discard(folder, f"not {registered}, which was registered")
    if not folder.exists():
        partial = FILES / "partial" / f"{record.run_id}.{secrets.token_hex(4)}"  # another process may bring the same
        partial.mkdir(parents=True)
        source = artifact_place(files_of(record))
        try:
            brought = bring(source, partial)
            folder.parent.mkdir(parents=True, exist_ok=True)
            put_in_place(brought, folder)
        except (MlflowException, OSError) as error:
            there = isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST) and folder.exists()
            if not there:  # else the other process was first
                if embedded_store() is None or disk_error(error) is not None:
                    raise
                raise BadInput(f"{record.name}/{record.version}", f"its files are not in {source}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    digest = folder_digest(folder)
    if registered and digest != registered:
        why = f"its files in {source} are {digest}, registered was {registered}"
        raise BadInput(f"{record.name}/{record.version}", why)
    return Version(record.name, str(record.version), record.run_id, dict(record.tags), folder, digest)


def files_of(record: Any) -> str:
    """The recorded location of a version's files. BadInput where MLflow's record of its model is gone."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    model_id = logged_id(record)
    if model_id is None:
        return record.source
    try:
        return f"{MlflowClient().get_logged_model(model_id).artifact_location}/{MODEL_FILES}"
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise BadInput(f"{record.name}/{record.version}", f"its LoggedModel {model_id} was deleted in MLflow") from error


def bring(source: str, place: Path) -> Path:
    """The files of an artifact location, below `place`. Large ones of a store here are shared with it and not copied."""
    from mlflow.artifacts import download_artifacts

    if os.path.isdir(source):
        return Path(shutil.copytree(source, place / Path(source).name, copy_function=share))
    return Path(download_artifacts(artifact_uri=source, dst_path=str(place)))


def versions_with(client: Any, digest: str) -> list[Any]:
    """MLflow's records of all versions of these bytes, newest first."""
    found = all_pages(client.search_model_versions, f"tags.`model.digest` = '{digest}'")
    return sorted(found, key=lambda version: version.creation_timestamp, reverse=True)


def learnt_from(client: Any, version: Version) -> list[str]:
    """All prompts that a version was trained or tuned on; of a VideoReward that was trained on from another, the other's
    too. BadInput where that is not on record: it cannot be compared on any test pairs then."""
    provenance = read_json(version.folder / FACTS).get("provenance", {}) if (version.folder / FACTS).exists() else {}
    if "pairs_digest" in provenance and PAIRS.exists() and provenance["pairs_digest"] == folder_digest(PAIRS):
        prompts = prompts_learnt_from([str(PAIRS)])  # the pairs that lie here are those
    elif any(item.path == SEEN for item in artifacts_of(client, version.run_id).list_artifacts()):
        prompts = client_json(client, version.run_id, SEEN)
    else:
        raise BadInput(str(version), f"no record of the prompts it learnt from ({' or '.join(LEARNT_FROM)} of its run)")
    bases = versions_with(client, provenance["base_digest"]) if provenance.get("base_digest") else []
    return sorted({*prompts, *(learnt_from(client, fetch(bases[0])) if bases else ())})


def client_json(client: Any, run_id: str, path: str) -> Any:
    """A JSON artifact of a run."""
    place = FILES / "artifacts" / run_id
    place.mkdir(parents=True, exist_ok=True)
    return read_json(artifacts_of(client, run_id).download_artifacts(path, str(place)))


def refuse_seen(file: Path, prompts: Iterable[str], version: Version, seen: list[str]) -> None:
    """BadInput for the first row whose prompt is one that a version learnt from, or a near-duplicate of one, by the rule
    that keeps those on one side of the split."""
    rows: dict[str, int] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, row)
    groups = near_groups([prompt_key(prompt) for prompt in (*seen, *rows)])
    known = dict(zip(groups[: len(seen)], seen, strict=True))
    for (prompt, row), group in zip(rows.items(), groups[len(seen) :], strict=True):
        if group in known:
            why = f"'{prompt}': {version} learnt from '{known[group]}', and cannot be tested on it"
            raise BadInput(file, why, row=row, key="prompt")
