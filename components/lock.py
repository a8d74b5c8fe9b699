"""dvc.lock, kept whole. DVC writes it in place, about a second long; a kill in that second cuts it short.

Every stage keeps a copy as it starts, when DVC is not writing. `python -m components.lock`, which `make demo` runs first,
puts the copy back where the lock was cut: at most the stage that was just done is not in it, and DVC's run cache has that.
"""

import os
import shutil
from pathlib import Path

import yaml

LOCK = Path("dvc.lock")
COPY = Path(".reelign/dvc.lock")


def is_whole(lock: Path) -> bool:
    """Whether a lock was written to its end: DVC ends it with a line break, and it is YAML."""
    text = lock.read_text()
    try:
        yaml.load(text, yaml.CSafeLoader)
    except yaml.YAMLError:
        return False
    return text.endswith("\n")


def keep_copy() -> None:
    """Copy the lock, if there is one, in one move."""
    if LOCK.exists() and is_whole(LOCK):
        COPY.parent.mkdir(exist_ok=True)
        partial = COPY.with_suffix(f".{os.getpid()}")  # processes of one stage do it side by side
        shutil.copyfile(LOCK, partial)
        partial.replace(COPY)


def put_back() -> None:
    """Restore a lock that was cut short; say so."""
    if not LOCK.exists() or is_whole(LOCK):
        return
    if COPY.exists():
        shutil.copyfile(COPY, LOCK)
        print("dvc.lock was cut short by a kill: put back as the last stage found it")
    else:
        LOCK.unlink()
        print("dvc.lock was cut short by a kill in the first stage: removed")


if __name__ == "__main__":
    put_back()
