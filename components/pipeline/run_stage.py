"""One stage on any machine: restore its inputs, run it unless it was run before, push its outputs.

A task of Airflow does this as a process, a container or a pod (`reelign run-stage NAME`), in a separate tree of the stage
(components/pipeline/work_tree.py). Persistent state is in the DVC cache, shared by all trees, and in the remote:

- outputs by digest, and DVC's run cache: the lock entry of a run by its command, params and the digests of its inputs;
- `executions/RUN/STAGE.yaml`: the lock entry of a stage in one DAG run. Later stages use its outputs, even where it was
  forced to run again or read a bucket that has changed since.

For an upstream stage the lock entry is enough; only the stage's direct inputs are fetched. No other stage is run.

Other commands have the same inputs as a stage: `reelign run-with STAGE COMMAND` runs one in the stage's tree.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.errors import BadInput, Unreachable
from components.files.atomic import atomic_write
from components.pipeline.dvc_internals import cached_outputs, check_out, exit_code_of, lost_outputs, repository
from components.pipeline.graph import stage_definition, stage_names, upstream
from components.pipeline.lock import put_back
from components.pipeline.lock_entries import Entries, read_lock
from components.pipeline.work_tree import Places, link_local_inputs, prepare, say, tree_of


@dataclass(frozen=True)
class InPlace:
    """A stage whose tree is the working directory, with the stage's inputs, and its outputs if it was run before (`made`).

    known: the lock entries of the stages upstream.
    """

    name: str
    tree: Path
    places: Places
    repo: Any  # dvc_internals.repository
    known: dict[str, Any]
    made: bool


def run_stage(name: str, commit: str | None, profile: str | None, force: bool) -> None:
    """Run the stage `name` of `commit` (HEAD) with the params of `profile`; without both, with this checkout's params.yaml.

    BadInput where an input cannot be restored, Unreachable where the remote does not respond; SystemExit with the stage's
    exit code where it fails.
    """
    with in_place(name, commit, profile, force) as stage:
        reproduce(stage, force)


def run_with(name: str, words: list[str], commit: str | None, profile: str | None) -> int:
    """Run `reelign WORDS...` in the tree of the stage `name`, as run_stage runs the stage; returns its exit code."""
    with in_place(name, commit, profile) as stage:
        # As DVC marks its commands, so that the next task finds processes left by this one (work_tree.end_orphans).
        environment = os.environ | {"DVC_ROOT": str(stage.tree)}
        code = subprocess.run([sys.executable, "-m", "components.cli.main", *words], env=environment).returncode
    return exit_code(code)


@contextmanager
def in_place(name: str, commit: str | None, profile: str | None, force: bool = False, node: int = 0) -> Iterator[InPlace]:
    """The stage with its inputs restored, locked for this process; with force, earlier outputs are not looked up. node: of
    several that share the stage (components/pipeline/nodes.py)."""
    started = time.monotonic()
    checkout = Path.cwd()
    places = Places.of(checkout)
    if commit is None and profile is None:  # another commit or profile may have other stages
        refuse_unknown(name)
    with tree_of(name, places, node) as tree:
        prepare(tree, checkout, places, commit, profile)
        os.chdir(tree)
        refuse_unknown(name)
        put_back()  # a task that was killed while DVC wrote it leaves a part, where git does not have it
        link_local_inputs(name, checkout)
        with remote_errors(places.remote):
            known, mine = write_entries(name, places, force)
            with repository() as repo:  # reads the lock anew
                made = bring(repo, name, places, known, mine)
                say(name, f"inputs are in place after {time.monotonic() - started:.1f} s")
                yield InPlace(name, tree, places, repo, known, made)


def refuse_unknown(name: str) -> None:
    """BadInput where dvc.yaml here has no stage of that name."""
    if name not in stage_names():
        raise BadInput("dvc.yaml", f"no such stage; there are {', '.join(stage_names())}", key=name)


def write_entries(name: str, places: Places, force: bool) -> tuple[dict, dict | None]:
    """Write dvc.lock with the entries of all stages upstream and, if any, the stage's own; returns both."""
    with repository() as repo:
        entries = Entries(repo, places.remote is not None)
        known: dict[str, Any] = {}
        for before in upstream(name):
            known[before] = entries.find(before, known)
        mine = None if force else entries.find(name, known, required=False)
    write_lock(known | ({name: mine} if mine else {}), name)
    return known, mine


def bring(repo: Any, name: str, places: Places, known: dict, mine: dict | None) -> bool:
    """Restore the stage's inputs and its earlier outputs; returns whether these are there. A lost input is BadInput; with
    lost outputs it runs again."""
    maker = {out["path"]: stage for stage, entry in known.items() for out in entry["outs"]}
    read = set(stage_definition(name)["deps"]) & set(maker)
    outs = cached_outputs(repo)
    for path in restore(repo, [out for out in outs if out.def_path in read], places):
        nowhere = f"neither in the cache nor in {places.remote or 'a remote (REELIGN_REMOTE is not set)'}"
        raise BadInput(path, f"{nowhere}; run stage {maker[path]} again with --force")
    return mine is not None and not restore(repo, [out for out in outs if out.stage.addressing == name], places)


def reproduce(stage: InPlace, force: bool) -> None:
    """Run the stage, unless it was run before, and store its outputs."""
    from dvc.exceptions import ReproductionError

    name = stage.name
    try:
        ran = bool(stage.repo.reproduce(name, single_item=True, force=force))
    except ReproductionError as error:
        if (code := exit_code_of(error)) is not None:  # the stage has printed the reason
            raise SystemExit(exit_code(code)) from None
        if isinstance(error.__cause__, no_answer()):
            raise error.__cause__ from None
        raise BadInput("dvc.yaml", str(error.__cause__), key=name) from error
    keep(stage, ran)


def keep(stage: InPlace, ran: bool) -> None:
    """Push the outputs of a finished stage and record its lock entry."""
    name, places, repo = stage.name, stage.places, stage.repo
    begun = time.monotonic()
    if places.remote:
        repo.push(targets=[name])
    entries = Entries(repo, places.remote is not None)
    entries.keep(name, entries.lock[name])
    what = "finished" if ran else "was run before, restored"
    say(name, f"{what}; kept in {places.remote or places.cache} after {time.monotonic() - begun:.1f} s")


def exit_code(code: int) -> int:
    """The exit code of a process as in shells: 128 + N after signal N."""
    return code if code >= 0 else 128 - code


def write_lock(entries: dict, name: str) -> None:
    """dvc.lock with these entries; without one for the stage `name`, if it has to run."""
    stages = {kept: entry for kept, entry in read_lock().items() if kept != name} | entries
    text = yaml.dump({"schema": "2.0", "stages": stages}, Dumper=yaml.CSafeDumper, sort_keys=False)
    atomic_write(Path("dvc.lock"), text)


def restore(repo: Any, outs: list[Any], places: Places) -> list[str]:
    """Check out outputs into the tree, after fetching missing ones; none where one is lost. Returns the lost ones."""
    from dvc.exceptions import DownloadError

    lost = lost_outputs(outs)
    if lost and places.remote:
        with suppress(DownloadError):  # looked for again below
            repo.fetch(targets=lost)
        lost = lost_outputs(outs)
    if not lost:
        check_out(outs)
    return lost


@contextmanager
def remote_errors(remote: str | None) -> Iterator[None]:
    """Raise Unreachable with the remote's name where it does not respond."""
    try:
        yield
    except no_answer() as error:
        raise Unreachable(remote or "S3", str(error)) from error


def no_answer() -> tuple[type[Exception], ...]:
    """DVC's exceptions for unreachable S3: no connection, a broken or silent one, and interrupted transfers. (Evaluated only
    after an exception, as these libraries are slow to import.)"""
    from botocore.exceptions import ConnectionError, HTTPClientError
    from dvc.exceptions import FileTransferError
    from fsspec.exceptions import FSTimeoutError

    return ConnectionError, HTTPClientError, FSTimeoutError, FileTransferError
