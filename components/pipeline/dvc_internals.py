"""What this project uses of DVC beyond its documented interface, all of it; tests/test_dvc_internals.py names the version.

DVC's command line looks up, fetches and checks out whole pipelines. A stage that runs alone on a machine
(components/pipeline/run_stage.py) needs single entries and outputs, which only these internals give. Each function imports
DVC when it is called: it takes half a second.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

VERSION = "3.67.1"  # the one that these functions were written for


@contextmanager
def repository() -> Iterator[Any]:
    """The DVC repository of the working directory; it reads dvc.yaml and dvc.lock once."""
    from dvc.repo import Repo

    with Repo() as repo:
        yield repo


def stages_of(repo: Any) -> dict[str, Any]:
    """Stages by name."""
    return {stage.name: stage for stage in repo.index.stages}


def cached_outputs(repo: Any) -> list[Any]:
    """Outputs that lie in the cache; others are files of the commit."""
    return [out for out in repo.index.outs if out.use_cache]


def lost_outputs(outs: list[Any]) -> list[str]:
    """Paths of outputs whose files the cache lacks."""
    return [out.def_path for out in outs if out.changed_cache()]


def check_out(outs: list[Any]) -> None:
    """Put outputs into the tree; repo.checkout would read dvc.yaml anew for each."""
    for out in outs:
        out.checkout(force=True)


def cache_folder(repo: Any) -> Path:
    """Where DVC's run cache and this project's records lie."""
    return Path(repo.cache.legacy.path)


def remote_store(repo: Any) -> Any:
    """The same folder in the remote: `.fs` (of fsspec's kind) and `.path`."""
    return repo.cloud.get_remote_odb(None, "run-stage", hash_name="md5-dos2unix")


def digest_inputs(stage: Any, made: dict[str, dict[str, Any]]) -> set[str]:
    """Set the digests of a stage's inputs: those of `made` (a lock entry's output by its path) from there, params and local
    files from their content. Returns the paths of the others."""
    from dvc.dependency import ParamsDependency
    from dvc.output import merge_file_meta_from_cloud
    from dvc_data.hashfile.meta import Meta

    unseen = set()
    for dep in stage.deps:
        if dep.def_path in made:
            info = {key: value for key, value in made[dep.def_path].items() if key != "path"}
            kind = info.pop("hash", None)
            dep.meta = Meta.from_dict(merge_file_meta_from_cloud(info))
            dep.hash_name, dep.hash_info = dep._compute_hash_info_from_meta(kind)
        elif isinstance(dep, ParamsDependency) or (dep.protocol == "local" and dep.exists):
            dep.save()
        else:
            unseen.add(dep.def_path)
    return unseen


def digest_elsewhere(stage: Any, paths: set[str]) -> list[str]:
    """Set the digests of inputs that lie elsewhere, in a bucket; returns the paths of those that are missing."""
    missing = []
    for dep in stage.deps:
        if dep.def_path in paths:
            if dep.exists:
                dep.save()
            else:
                missing.append(dep.def_path)
    return missing


def lock_entry(stage: Any) -> dict[str, Any]:
    """The entry that DVC would now write for a stage into dvc.lock."""
    from dvc.stage.serialize import to_single_stage_lockfile

    text = yaml.dump(_plain(to_single_stage_lockfile(stage)), Dumper=yaml.CSafeDumper)
    return yaml.load(text, yaml.CSafeLoader)


def read_yaml(text: str) -> Any:
    """The content of one of DVC's files, as DVC reads it; None where it is no YAML. In DVC's YAML 1.2 `1e-09` is a number,
    for PyYAML it is a text, and a stage with such a param would differ from its own entry."""
    from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml

    try:
        return parse_yaml(text, "")
    except YAMLFileCorruptedError:
        return None


def run_key(entry: dict[str, Any]) -> str:
    """Key of a run in DVC's run cache, over everything but its outputs."""
    from dvc.stage.cache import _get_cache_hash

    return _get_cache_hash(dict(entry), key=True)


def run_value(entry: dict[str, Any]) -> str:
    """Name of an entry below its key in DVC's run cache."""
    from dvc.stage.cache import _get_cache_hash

    return _get_cache_hash(dict(entry))


def exit_code_of(error: Exception) -> int | None:
    """Exit code of the stage whose command made `repo.reproduce` fail; None where another thing did."""
    from dvc.stage.exceptions import StageCmdFailedError

    if not isinstance(error.__cause__, StageCmdFailedError):
        return None
    found = re.search(r"exited with (-?\d+)", str(error.__cause__))
    return int(found[1]) if found else 1


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
