"""One stage on any machine: its inputs restored, the stage run unless somebody did before, its outputs pushed.

This is what a task of Airflow does, as a process, a container or a pod (`reelign run-stage NAME`). A stage works in a tree
of its own, a clone that shares this checkout's objects: DVC locks its tree, so that stages in one tree would wait for each
other, and a task that is killed leaves its state (components/stage.py) where the next try of the same stage finds it.
What lasts is in the DVC cache, shared by all trees, and in the remote:

- outputs by digest, and DVC's run cache: the lock entry of a run by its command, params and the digests of its inputs;
- `executions/RUN/STAGE.yaml`: the lock entry of a stage in one DAG run, so that stages after it see what it made, even
  where it was forced to run again or read a bucket that has changed since.

From these an upstream stage is known by its entry alone; only what the stage itself reads is fetched. Nothing but the
stage that was asked for is ever run.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from components.errors import BadInput, Unreachable
from components.graph import edges, stage_definition, stage_names
from components.lock_entries import Entries

NO_ANSWER = {"EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ClientConnectorError", "ConnectionError"}


@dataclass(frozen=True)
class Places:
    """Where a checkout keeps what its stages make: below the folder REELIGN_WORK, if set (a volume), else in itself."""

    trees: Path
    cache: Path
    home: Path  # of MLflow's store
    remote: str | None  # a URL or folder of REELIGN_REMOTE

    @classmethod
    def of(cls, checkout: Path) -> "Places":
        remote = os.environ.get("REELIGN_REMOTE") or None
        if remote and "://" not in remote:
            remote = str(Path(remote).absolute())
        if work := os.environ.get("REELIGN_WORK"):
            folder = Path(work).absolute()
            return cls(folder / "trees", folder / "cache", folder, remote)
        return cls(checkout / ".reelign/trees", checkout / ".dvc/cache", checkout, remote)


def run_stage(name: str, commit: str | None, profile: str | None, force: bool) -> None:
    """Run the stage `name` of `commit` (HEAD) with the params of `profile`; without both, with this checkout's params.yaml.

    BadInput where an input cannot be restored, Unreachable where the remote does not answer; SystemExit with the stage's own
    exit code where it fails.
    """
    started = time.monotonic()
    checkout = Path.cwd()
    places = Places.of(checkout)
    with tree_of(name, places) as tree:
        prepare(tree, checkout, places, commit, profile)
        os.chdir(tree)
        if name not in stage_names():
            raise BadInput("dvc.yaml", f"no such stage; there are {', '.join(stage_names())}", key=name)
        link_local_inputs(name, checkout)
        with remote_errors(places.remote):
            reproduce(name, places, force, started)


@contextmanager
def tree_of(name: str, places: Places) -> Iterator[Path]:
    """The folder of a stage's tree, for this process alone: a second task of the same stage waits."""
    tree = places.trees / name
    places.trees.mkdir(parents=True, exist_ok=True)
    with open(places.trees / f"{name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(name, "waits for another task of this stage")
            fcntl.flock(lock, fcntl.LOCK_EX)
        end_orphans(name, tree)
        before = Path.cwd()
        try:
            yield tree
        finally:
            os.chdir(before)


def end_orphans(name: str, tree: Path) -> None:
    """Kill what a task that was killed left running in its tree: nobody else may write there."""
    import psutil

    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("DVC_ROOT") == str(tree):  # DVC tells its commands
            say(name, f"process {process.pid} of an earlier task still runs in {tree}: killed")
            process.kill()
            process.wait(60)


def prepare(tree: Path, checkout: Path, places: Places, commit: str | None, profile: str | None) -> None:
    """Bring the tree to the commit and the params, and tell its DVC of the cache and the remote. Its outputs stay: DVC sees
    whether they still fit."""
    found = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{commit or 'HEAD'}^{{commit}}"],
        cwd=checkout, capture_output=True, text=True,
    )  # fmt: skip
    if found.returncode:
        raise BadInput(checkout, f"git has no commit '{commit or 'HEAD'}' here {found.stderr.strip()}".rstrip())
    if not (tree / ".git").exists():
        shutil.rmtree(tree, ignore_errors=True)
        partial = tree.with_name(f"{tree.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        git("clone", "--quiet", "--shared", "--no-checkout", str(checkout), str(partial))
        partial.rename(tree)
    (tree / ".git/index.lock").unlink(missing_ok=True)  # of a task that was killed just then
    git("checkout", "--quiet", "--force", "--detach", found.stdout.strip(), cwd=tree)
    if profile:
        wanted = tree / "infra/profiles" / f"{profile}.yaml"
        if not wanted.exists():
            raise BadInput(wanted.relative_to(tree), f"no such profile at commit {found.stdout[:12]}")
        shutil.copyfile(wanted, tree / "params.yaml")
    elif not commit:
        shutil.copyfile(checkout / "params.yaml", tree / "params.yaml")
    places.cache.mkdir(parents=True, exist_ok=True)
    config = {
        "core": {"site_cache_dir": str(tree / ".reelign/dvc"), "analytics": "false"},
        # Links: a tree for each stage would else be a copy of the data for each.
        "cache": {"dir": str(places.cache), "type": "reflink,hardlink,copy"},
    }
    if places.remote:
        config["core"]["remote"] = "reelign"
        config["'remote \"reelign\"'"] = {"url": places.remote}
    lines = [f"[{section}]\n" + "".join(f"    {k} = {v}\n" for k, v in keys.items()) for section, keys in config.items()]
    (tree / ".dvc/config.local").write_text("".join(lines))
    (tree / ".dvc/tmp/rwlock").unlink(missing_ok=True)  # names processes that may have lived elsewhere
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{places.home}/mlflow.db")


def git(*words: str, cwd: Path | None = None) -> None:
    done = subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise BadInput("git " + " ".join(words[:1]), done.stderr.strip().splitlines()[-1])


def link_local_inputs(name: str, checkout: Path) -> None:
    """Inputs that no stage makes and git does not keep (downloaded models, a folder of labels) lie in the checkout alone."""
    made = {out for other in stage_names() for out in stage_definition(other)["outs"]}
    for dep in stage_definition(name)["deps"]:
        if "://" in dep or dep in made or Path(dep).exists() or not (checkout / dep).exists():
            continue
        Path(dep).parent.mkdir(parents=True, exist_ok=True)
        Path(dep).symlink_to(checkout / dep)


def reproduce(name: str, places: Places, force: bool, started: float) -> None:
    """The stage `name` of the tree that is the working directory."""
    from dvc.exceptions import ReproductionError
    from dvc.repo import Repo
    from dvc.stage.exceptions import StageCmdFailedError

    with Repo() as repo:
        entries = Entries(repo, places.remote is not None)
        known = {}
        for before in upstream(name):
            known[before] = entries.find(before, known)
        mine = None if force else entries.find(name, known, required=False)
    write_lock(known | ({name: mine} if mine else {}), name)

    with Repo() as repo:  # reads the lock anew
        maker = {out["path"]: stage for stage, entry in known.items() for out in entry["outs"]}
        for path in restore(repo, [dep for dep in stage_definition(name)["deps"] if dep in maker], places):
            nowhere = f"neither in the cache nor in {places.remote or 'a remote (REELIGN_REMOTE is not set)'}"
            raise BadInput(
                path, f"neither in the cache nor in {nowhere}; stage {maker[path]} has to run again, with --force"
            )
        if mine:
            restore(repo, [name], places)  # where outputs are lost, it is run again
        say(name, f"inputs are in place after {time.monotonic() - started:.1f} s")
        try:
            ran = bool(repo.reproduce(name, single_item=True, force=force))
        except ReproductionError as error:
            if isinstance(error.__cause__, StageCmdFailedError):  # the stage itself has said why
                code = int(re.search(r"exited with (-?\d+)", str(error.__cause__))[1])
                raise SystemExit(code if code > 0 else 128 - code) from None
            raise BadInput("dvc.yaml", str(error.__cause__), key=name) from error
        begun = time.monotonic()
        if places.remote:
            repo.push(targets=[name])
        Entries(repo, places.remote is not None).keep(name, yaml.safe_load(Path("dvc.lock").read_text())["stages"][name])
    what = "finished" if ran else "was run before, restored"
    say(name, f"{what}; kept in {places.remote or places.cache} after {time.monotonic() - begun:.1f} s")


def upstream(name: str) -> list[str]:
    """All stages that `name` rests on, each after those that it rests on itself."""
    before: dict[str, list[str]] = {}
    for earlier, later in edges():
        before.setdefault(later, []).append(earlier)
    order: list[str] = []

    def visit(stage: str) -> None:
        for earlier in before.get(stage, []):
            if earlier not in order:
                visit(earlier)
                order.append(earlier)

    visit(name)
    return order


def write_lock(entries: dict, name: str) -> None:
    """dvc.lock with these entries; without one for the stage `name`, if it has to run."""
    path = Path("dvc.lock")
    lock = yaml.load(path.read_text(), yaml.CSafeLoader) if path.exists() else {"schema": "2.0", "stages": {}}
    lock["stages"].pop(name, None)
    lock["stages"] |= entries
    path.write_text(yaml.dump(lock, Dumper=yaml.CSafeDumper, sort_keys=False))


def restore(repo, targets: list[str], places: Places) -> list[str]:
    """Bring outputs, or all of a stage, from the cache into the tree, after fetching what it lacks. Returns what is lost."""
    from dvc.exceptions import CheckoutError, DownloadError

    for fetched in (False, True):
        try:
            if targets:
                repo.checkout(targets=targets, force=True)
            return []
        except CheckoutError as error:
            lost = [os.path.relpath(path) for path in error.target_infos]
        if not fetched and places.remote:
            with suppress(DownloadError):  # checkout says what is missing
                repo.fetch(targets=targets)
    return lost


@contextmanager
def remote_errors(remote: str | None) -> Iterator[None]:
    """A remote that does not answer, by its name and without a traceback."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if type(cause).__name__ in NO_ANSWER:
                raise Unreachable(remote or "remote", str(cause)) from error
            cause = cause.__cause__ or cause.__context__
        raise


def say(name: str, text: str) -> None:
    print(f"[{name}] {text}", file=sys.stderr, flush=True)
