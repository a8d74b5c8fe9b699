"""Files that share their bytes with another: reflinks, hard links, or copies where a file system has neither.

A hard link is the same file under a second name: nothing here writes to a file in place (atomic.py renames), so neither name
sees a change of the other.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from components.files.digests import LARGE

FICLONE = 0x40049409  # linux/fs.h: the target shares the source's blocks until one of the two is written


def share(source: str | Path, target: str | Path) -> str:
    """Make `target`, which must not be there, with the bytes of `source`; returns how. For shutil.copytree's copy_function.

    Small files are copied: configurations are edited by hand. A link as source is followed.
    """
    real = os.path.realpath(source)
    if os.path.getsize(real) < LARGE:
        shutil.copyfile(real, target)
        return "copy"
    return linked(real, target)


def linked(real: str, target: str | Path) -> str:
    """`share` for a file of any size: "reflink", "hard link" or "copy"."""
    try:
        with open(real, "rb") as there, open(target, "xb") as here:
            fcntl.ioctl(here.fileno(), FICLONE, there.fileno())
        return "reflink"
    except FileExistsError:
        raise
    except OSError:  # another file system, or one that cannot
        os.unlink(target)
    try:
        os.link(real, target)
        return "hard link"
    except OSError:
        shutil.copyfile(real, target)
        return "copy"


def way_of(folder: str | Path) -> str:
    """How large files are shared within a folder's file system."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        source = Path(place, "a")
        source.write_bytes(b"x")
        return linked(str(source), Path(place, "b"))
