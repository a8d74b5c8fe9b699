"""Recovery of what a killed DVC leaves. It takes about a second to write dvc.lock in place; a kill in that second truncates
it. A kill while it writes to its run cache leaves an empty folder there, with which no DVC runs the stage again.

Every stage copies the lock at its start, when DVC is not writing. `python -m components.pipeline.lock`, which `make demo`
runs first, restores the copy over a truncated lock: it lacks at most the last finished stage, which the run cache has. And
it removes such folders.
"""

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from components.files.atomic import whole_file
from components.pipeline.graph import stage_definition, stage_names

LOCK = Path("dvc.lock")
COPY = Path(".reelign/dvc.lock")


def is_whole(lock: Path) -> bool:
    """Whether a lock was written to its end.

    A truncated lock is no YAML or ends within a line; or, cut at the end of a line, it ends within its last stage, or lacks
    stages of the pipeline that the copy has. The lock of HEAD is complete, even if it has fewer stages.
    """
    text = lock.read_text(errors="replace")
    stages = entries(text)
    if stages is None or not text.endswith("\n"):
        return False
    kept = copied() or {}
    lost = (kept.keys() & {*stage_names()}) - stages.keys()
    return (bool(stages) and not lost and ends_whole(stages)) or text == committed(lock)


def copied() -> dict[str, Any] | None:
    """The stages of the copy; None where there is none, or a damaged one."""
    stages = entries(COPY.read_text(errors="replace")) if COPY.exists() else None
    return stages if stages and ends_whole(stages) else None


def entries(text: str) -> dict[str, Any] | None:
    """The stages of a lock; None where it is no YAML or no mapping."""
    try:
        lock = yaml.load(text, yaml.CSafeLoader)
    except yaml.YAMLError:
        return None
    return (lock.get("stages") or {}) if isinstance(lock, dict) else None


def ends_whole(stages: dict[str, Any]) -> bool:
    """Whether the last stage of a lock is complete: DVC writes outs last, each with its size, a folder also with its number
    of files."""
    name, entry = list(stages.items())[-1]
    outs = (entry or {}).get("outs") or []
    made = {*stage_definition(name)["outs"]} if name in stage_names() else set()
    if not outs or made - {out.get("path") for out in outs}:
        return False
    (*_, last) = outs
    return "size" in last and ("nfiles" in last or not str(last.get("md5")).endswith(".dir"))


def committed(lock: Path) -> str | None:
    """The lock at git's HEAD; None where there is none."""
    found = subprocess.run(["git", "show", f"HEAD:./{lock.name}"], cwd=lock.parent, capture_output=True, text=True)
    return found.stdout if found.returncode == 0 else None


def keep_copy() -> None:
    """Copy the lock atomically; without a lock remove the copy."""
    if not LOCK.exists():
        COPY.unlink(missing_ok=True)
    elif is_whole(LOCK):
        COPY.parent.mkdir(exist_ok=True)
        copy_whole(LOCK, COPY)


def put_back() -> None:
    """Restore a truncated lock and print a line."""
    if not LOCK.exists() or is_whole(LOCK):
        return
    if copied():
        copy_whole(COPY, LOCK)
        print("dvc.lock was cut short by a kill: put back as the last stage found it")
    else:
        LOCK.unlink()
        print("dvc.lock was cut short by a kill, and no copy is whole: removed, DVC's run cache has what was made")


def copy_whole(source: Path, target: Path) -> None:
    """Copy in one move; processes of one stage do it side by side."""
    with whole_file(target) as partial:
        shutil.copyfile(source, partial)


def remove_empty(folder: Path) -> None:
    """Remove the folder of a run in the run cache where it holds no entry: a killed DVC leaves it so, and no DVC runs a
    stage that has such a folder."""
    with suppress(OSError):  # it holds some, or is not there
        folder.rmdir()


def clear_run_cache() -> None:
    """Remove entries that were not written to their end, and folders of runs without any."""
    for folder in Path(".dvc/cache/runs").glob("*/*"):
        for file in folder.glob(".*.tmp"):  # as DVC names what it moves into place
            file.unlink()
        remove_empty(folder)


if __name__ == "__main__":
    put_back()
    clear_run_cache()
