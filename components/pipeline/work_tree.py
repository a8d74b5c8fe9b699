"""The work tree of a stage: a clone that shares this checkout's objects, at a given commit and with given params.

DVC locks its tree, so that stages in one tree would wait for each other. The state of a killed task
(components/pipeline/stage.py) stays in the tree for the next try of the stage. A tree may be lost: persistent data is in
the DVC cache, shared by all trees, and in the remote.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.config.profiles import profile_file
from components.errors import BadInput, without_passwords
from components.files.atomic import atomic_write, discard, whole_folder
from components.files.locks import sole_writer
from components.pipeline.graph import STAGE_NAME, stage_definition, stage_names
from components.pipeline.mlflow_store import embedded_store


@dataclass(frozen=True)
class Places:
    """Folders for the stages' data of a checkout: below REELIGN_WORK, if set (a volume), else in the checkout."""

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


@contextmanager
def tree_of(name: str, places: Places, node: int = 0) -> Iterator[Path]:
    """The folder of a stage's tree, locked for this process: a second task of the same stage waits. Nodes that share a stage
    have a tree each. BadInput for what is no plain name: a path would lead out of the trees' folder."""
    if not re.fullmatch(STAGE_NAME, name):
        why = "no name of a stage: letters a to z, '_', and for one of several '@KEY'"
        raise BadInput("dvc.yaml", why, key=name)
    tree = places.trees / (f"{name}.node-{node}" if node else name)
    with sole_writer(tree, waits=lambda holder: say(name, f"waits for another task of this stage: {holder}")):
        end_orphans(name, tree)
        before = Path.cwd()
        try:
            yield tree
        finally:
            os.chdir(before)


def end_orphans(name: str, tree: Path) -> None:
    """Kill processes that a killed task left running in its tree, as they could write there."""
    import psutil

    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("DVC_ROOT") == str(tree):  # DVC sets it for its commands
            say(name, f"process {process.pid} of an earlier task still runs in {tree}: killed")
            process.kill()
            process.wait(60)


def prepare(tree: Path, checkout: Path, places: Places, commit: str | None, profile: str | None) -> None:
    """Bring the tree to the commit and the params, and tell its DVC of the cache and the remote. Its outputs stay: DVC sees
    whether they still fit."""
    chosen = profile_file(profile) if profile else None
    found = full_hash(commit, checkout)
    try:
        check_out(tree, checkout, found)
    except (BadInput, FileNotFoundError) as error:  # what git keeps there is damaged
        discard(tree, error)
        check_out(tree, checkout, found)
    if chosen:
        wanted = tree / chosen
        if not wanted.exists():
            raise BadInput(chosen, f"no such profile at commit {found[:12]}")
        shutil.copyfile(wanted, tree / "params.yaml")
    elif not commit:
        shutil.copyfile(checkout / "params.yaml", tree / "params.yaml")
    places.cache.mkdir(parents=True, exist_ok=True)
    state = tree / ".reelign/dvc"
    for folder in (state.parent, state, state / "repo"):  # DVC would make them writable by everybody
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    config = {
        "core": {"site_cache_dir": str(state), "analytics": "false"},
        # Links, as otherwise each stage's tree would have a copy of the data.
        "cache": {"dir": str(places.cache), "type": "reflink,hardlink,copy"},
    }
    if places.remote:
        config["core"]["remote"] = "reelign"
        config["'remote \"reelign\"'"] = {"url": places.remote}
    lines = [f"[{section}]\n" + "".join(f"    {k} = {v}\n" for k, v in keys.items()) for section, keys in config.items()]
    atomic_write(tree / ".dvc/config.local", "".join(lines), private=True)  # the remote's address may hold a password
    (tree / ".dvc/tmp/rwlock").unlink(missing_ok=True)  # names processes that may have lived elsewhere
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    store = embedded_store() if os.environ.get("MLFLOW_TRACKING_URI") else places.home / "mlflow.db"
    if store:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{store}"  # absolute, as a relative one would be in the tree


def full_hash(commit: str | None, checkout: Path) -> str:
    """The full hash of a commit, given by its hash or the beginning of it; of HEAD where none is given. BadInput for a name:
    a branch moves, and tasks of one run would see different commits."""
    if commit and not re.fullmatch("[0-9a-f]{4,64}", commit):
        raise BadInput(checkout, f"'{commit}' is no hash of a commit (`git rev-parse {commit}` gives it)", key="--commit")
    words = ["git", "rev-parse", "--verify", "--quiet", f"{commit or 'HEAD'}^{{commit}}"]
    found = subprocess.run(words, cwd=checkout, capture_output=True, text=True)
    if found.returncode or not found.stdout.startswith(commit or ""):  # a branch may be called cafe
        raise BadInput(checkout, f"git has no commit '{commit or 'HEAD'}' here {found.stderr.strip()}".rstrip())
    return found.stdout.strip()


def check_out(tree: Path, checkout: Path, commit: str) -> None:
    """Bring the files of a commit into the tree, which is made first where it is not there."""
    if not (tree / ".git").exists():
        shutil.rmtree(tree, ignore_errors=True)
        with whole_folder(tree) as partial:
            git("clone", "--quiet", "--shared", "--no-checkout", str(checkout), str(partial))
    (tree / ".git/index.lock").unlink(missing_ok=True)  # of a task that was killed just then
    # git keeps the place that it cloned from, and the checkout may have been moved or copied since.
    objects = git("rev-parse", "--path-format=absolute", "--git-path", "objects", cwd=checkout)
    atomic_write(tree / ".git/objects/info/alternates", f"{objects}\n")
    # By name: where its own is damaged, git would take the next repository above, which is the checkout.
    environment = {"GIT_DIR": str(tree / ".git"), "GIT_WORK_TREE": str(tree)}
    git("checkout", "--quiet", "--force", "--detach", commit, cwd=tree, environment=environment)


def git(*words: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """What a git command prints; BadInput with its last line where it fails."""
    variables = os.environ | (environment or {})
    done = subprocess.run(["git", *words], cwd=cwd, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise BadInput("git " + " ".join(words[:1]), done.stderr.strip().splitlines()[-1])
    return done.stdout.strip()


def link_local_inputs(name: str, checkout: Path) -> None:
    """Link inputs that only the checkout has: not made by a stage and not tracked by git (downloaded models, labels)."""
    made = {out for other in stage_names() for out in stage_definition(other)["outs"]}
    for dep in stage_definition(name)["deps"]:
        if "://" in dep or dep in made:
            continue
        if Path(dep).is_symlink():
            Path(dep).unlink()  # it may point to the checkout's old location
        if Path(dep).exists() or not (checkout / dep).exists():
            continue
        Path(dep).parent.mkdir(parents=True, exist_ok=True)
        Path(dep).symlink_to(checkout / dep)


def say(name: str, text: str) -> None:
    print(f"[{name}] {without_passwords(text)}", file=sys.stderr, flush=True)
