"""Lock entries of stages that were run, on this machine or another, found without running or fetching anything.

An entry is a stage's part of dvc.lock: its command, params, and digests of inputs and outputs. It is looked up

1. in the record of the current DAG run (`executions/RUN/STAGE.yaml`),
2. in DVC's run cache (`runs/`), by command, params and the digests of the inputs,
3. in dvc.lock of the commit.

The first is trusted for inputs that this machine cannot see or that change externally (a bucket); the others must match in
all digests. Both folders are in DVC's cache and beside its files in the remote.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from components.errors import BadInput
from components.files import discard, whole_file

Entry = dict[str, Any]


@dataclass
class Entries:
    """The entries of a DVC repository and of its remote, if any."""

    repo: Any  # dvc.repo.Repo
    with_remote: bool

    @cached_property
    def stages(self) -> dict[str, Any]:
        return {stage.name: stage for stage in self.repo.index.stages}

    @cached_property
    def lock(self) -> dict[str, Entry]:
        return read_lock()

    @cached_property
    def remote(self) -> Any:
        """Folder of DVC's files in the remote: `.fs` and `.path`."""
        return self.repo.cloud.get_remote_odb(None, "run-stage", hash_name="md5-dos2unix")

    def find(self, name: str, known: dict[str, Entry], required: bool = True) -> Entry | None:
        """The entry of stage `name`, given those of all stages upstream. Without one: None or, if required, BadInput that
        names the stage."""
        stage = self.stages[name]
        unseen = self._digest_inputs(stage, known)
        recorded = self._record(name)
        if recorded and fits(recorded, current(stage), unseen):
            return recorded
        missing = []
        for dep in stage.deps:
            if dep.def_path in unseen:
                if dep.exists:  # in a bucket: not requested before
                    dep.save()
                else:
                    missing.append(dep.def_path)
        if not missing:
            now = current(stage)
            for entry in self._runs(run_key(now)):
                return entry
            if name in self.lock and fits(self.lock[name], now):
                return self.lock[name]
        if not required:
            return None
        why = f"not found here: {', '.join(missing)}" if missing else "no lock entry and no run cache has this run"
        raise BadInput(f"stage {name}", f"not run yet with these inputs and params ({why}); run it first")

    def keep(self, name: str, entry: Entry) -> None:
        """Write an entry to the run cache and to the DAG run's record, in the cache and the remote."""
        key = run_key(entry)
        paths = [f"runs/{key[:2]}/{key}/{run_value(entry)}"]
        if execution():
            paths.append(f"executions/{execution()}/{name}.yaml")
        text = yaml.dump(entry, Dumper=yaml.CSafeDumper, sort_keys=False)
        for path in paths:
            write_whole(self._local(path), text)
            if self.with_remote:
                target = self.remote.fs.join(self.remote.path, *path.split("/"))
                self.remote.fs.makedirs(self.remote.fs.parent(target))
                self.remote.fs.put_file(str(self._local(path)), target)

    def _digest_inputs(self, stage: Any, known: dict[str, Entry]) -> set[str]:
        """Set the digests of a stage's inputs: outputs of other stages from their entries, local files from their bytes.
        Returns the inputs that are neither."""
        from dvc.dependency import ParamsDependency
        from dvc.output import merge_file_meta_from_cloud
        from dvc_data.hashfile.meta import Meta

        made = {out["path"]: out for entry in known.values() for out in entry["outs"]}
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

    def _record(self, name: str) -> Entry | None:
        if not execution():
            return None
        path = f"executions/{execution()}/{name}.yaml"
        if self.with_remote:
            self._fetch(path)
        return read_entry(self._local(path))

    def _runs(self, key: str) -> list[Entry]:
        """Entries of the run cache under a key, the newest here first."""
        folder = f"runs/{key[:2]}/{key}"
        if self.with_remote:
            fs = self.remote.fs
            remote = fs.join(self.remote.path, *folder.split("/"))
            for found in fs.find(remote) if fs.exists(remote) else []:
                if not self._local(f"{folder}/{fs.name(found)}").exists():
                    self._fetch(f"{folder}/{fs.name(found)}")
        files = sorted(self._local(folder).glob("*"), key=lambda file: file.stat().st_mtime, reverse=True)
        return [entry for file in files if (entry := read_entry(file))]

    def _fetch(self, path: str) -> None:
        """Copy a file from the remote, if it exists there, into the cache."""
        fs = self.remote.fs
        source = fs.join(self.remote.path, *path.split("/"))
        if fs.exists(source):
            with fs.open(source) as stream:
                write_whole(self._local(path), stream.read())

    def _local(self, path: str) -> Path:
        return Path(self.repo.cache.legacy.path) / path


def execution() -> str | None:
    """The DAG run of this process, as a file name."""
    run = os.environ.get("AIRFLOW_CTX_DAG_RUN_ID")
    return quote(run, safe="") if run else None


def current(stage: Any) -> Entry:
    """The entry that DVC would now write for a stage."""
    from dvc.stage.serialize import to_single_stage_lockfile

    text = yaml.dump(plain(to_single_stage_lockfile(stage)), Dumper=yaml.CSafeDumper)
    return yaml.load(text, yaml.CSafeLoader)


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def fits(entry: Entry, now: Entry, unseen: set[str] = frozenset()) -> bool:
    """Whether an entry has the same command, params, outputs and visible inputs."""

    def side(of: Entry) -> tuple:
        deps = {dep["path"]: dep.get("md5") or dep.get("etag") for dep in of.get("deps", []) if dep["path"] not in unseen}
        return of["cmd"], of.get("params", {}), deps, sorted(out["path"] for out in of["outs"])

    return side(entry) == side(now)


def run_key(entry: Entry) -> str:
    """Key of a run in DVC's run cache, over everything but its outputs."""
    from dvc.stage.cache import _get_cache_hash

    return _get_cache_hash(dict(entry), key=True)


def run_value(entry: Entry) -> str:
    from dvc.stage.cache import _get_cache_hash

    return _get_cache_hash(dict(entry))


def read_entry(file: Path) -> Entry | None:
    """None where there is none, or a damaged one, which goes: the stage runs again, or the remote has it whole."""
    found = yaml_of(file) if file.exists() else None
    if file.exists() and not (isinstance(found, dict) and {"cmd", "outs"} <= found.keys()):
        discard(file, "no lock entry")
        return None
    return found


def read_lock() -> dict[str, Entry]:
    """The stages of dvc.lock here; none where there is no lock, or a damaged one, which goes."""
    lock = Path("dvc.lock")
    found = yaml_of(lock) if lock.exists() else {"stages": {}}
    if not isinstance(found, dict) or not isinstance(found.get("stages"), dict):
        discard(lock, "no lock")
        return {}
    return found["stages"]


def yaml_of(file: Path) -> Any:
    """The content of a YAML file; None where it is no YAML."""
    try:
        return yaml.load(file.read_text(errors="replace"), yaml.CSafeLoader)
    except yaml.YAMLError:
        return None


def write_whole(file: Path, text: str) -> None:
    """Write a file atomically, as tasks of one DAG run do it at the same time."""
    with whole_file(file) as partial:
        partial.write_text(text)
