"""Lock entries of stages that were run, on this machine or another, found without running or fetching anything.

An entry is a stage's part of dvc.lock: its command, params, and digests of inputs and outputs. It is looked up

1. in the record of the current DAG run (`executions/RUN/STAGE.yaml`),
2. in DVC's run cache (`runs/`), by command, params and the digests of the inputs,
3. in dvc.lock of the commit.

The first is trusted for inputs that this machine cannot see or that change externally (a bucket); the others must match in
all digests. Both folders are in DVC's cache and beside its files in the remote.
"""

import os
from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from components.errors import BadInput
from components.files.atomic import atomic_write, discard
from components.pipeline.dvc_internals import (
    cache_folder,
    digest_elsewhere,
    digest_inputs,
    lock_entry,
    read_yaml,
    remote_store,
    run_key,
    run_value,
    stages_of,
)
from components.pipeline.lock import remove_empty

Entry = dict[str, Any]


@dataclass
class Entries:
    """The entries of a DVC repository and of its remote, if any."""

    repo: Any  # dvc_internals.repository
    with_remote: bool

    @cached_property
    def stages(self) -> dict[str, Any]:
        return stages_of(self.repo)

    @cached_property
    def lock(self) -> dict[str, Entry]:
        return read_lock()

    @cached_property
    def remote(self) -> Any:
        """Folder of DVC's files in the remote: `.fs` and `.path`."""
        return remote_store(self.repo)

    def find(self, name: str, known: dict[str, Entry], required: bool = True) -> Entry | None:
        """The entry of stage `name`, given those of all stages upstream. Without one: None or, if required, BadInput that
        names the stage."""
        stage = self.stages[name]
        unseen = digest_inputs(stage, {out["path"]: out for entry in known.values() for out in entry["outs"]})
        recorded = self._record(name)
        if recorded and fits(recorded, lock_entry(stage), unseen):
            return recorded
        missing = digest_elsewhere(stage, unseen)  # not requested before
        if not missing:
            now = lock_entry(stage)
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
            atomic_write(self._local(path), text)
            if self.with_remote:
                target = self.remote.fs.join(self.remote.path, *path.split("/"))
                self.remote.fs.makedirs(self.remote.fs.parent(target))
                self.remote.fs.put_file(str(self._local(path)), target)

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
        found = [entry for file in files if (entry := read_entry(file))]
        remove_empty(self._local(folder))
        return found

    def _fetch(self, path: str) -> None:
        """Copy a file from the remote, if it exists there, into the cache."""
        fs = self.remote.fs
        source = fs.join(self.remote.path, *path.split("/"))
        if fs.exists(source):
            with fs.open(source) as stream:
                atomic_write(self._local(path), stream.read())

    def _local(self, path: str) -> Path:
        return cache_folder(self.repo) / path


def execution() -> str | None:
    """The DAG run of this process, as a file name."""
    run = os.environ.get("AIRFLOW_CTX_DAG_RUN_ID")
    return quote(run, safe="") if run else None


def fits(entry: Entry, now: Entry, unseen: Set[str] = frozenset()) -> bool:
    """Whether an entry has the same command, params, outputs and visible inputs."""

    def side(of: Entry) -> tuple:
        deps = {dep["path"]: dep.get("md5") or dep.get("etag") for dep in of.get("deps", []) if dep["path"] not in unseen}
        return of["cmd"], of.get("params", {}), deps, sorted(out["path"] for out in of["outs"])

    return side(entry) == side(now)


def read_entry(file: Path) -> Entry | None:
    """None where there is none, or a damaged one, which goes: the stage runs again, or the remote has it whole."""
    found = read_yaml(file.read_text(errors="replace")) if file.exists() else None
    if file.exists() and not (isinstance(found, dict) and {"cmd", "outs"} <= found.keys()):
        discard(file, "no lock entry")
        return None
    return found


def read_lock() -> dict[str, Entry]:
    """The stages of dvc.lock here; none where there is no lock, or a damaged one, which goes."""
    lock = Path("dvc.lock")
    found = read_yaml(lock.read_text(errors="replace")) if lock.exists() else {"stages": {}}
    if not isinstance(found, dict) or not isinstance(found.get("stages"), dict):
        discard(lock, "no lock")
        return {}
    return found["stages"]
