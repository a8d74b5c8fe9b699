"""Digests of files, and which files a folder has: what a cache key or a version rests on is what lies there, each byte."""

import functools
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from components.errors import BadInput

# A file that was written so lately could be written again without a later time of change: its digest is not remembered.
SETTLED = 2.0  # seconds


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex. One that has not changed since this process read it is not read again: its size,
    place on the disk (device and inode), and times of change tell."""
    now = time.time_ns()
    with open(path, "rb") as stream:
        state = os.fstat(stream.fileno())
    settled = max(state.st_mtime_ns, state.st_ctime_ns) < now - SETTLED * 1e9
    if not settled:
        return _read(path)
    return _remembered(str(path), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@functools.lru_cache(maxsize=1 << 20)
def _remembered(path: str, *state: int) -> str:
    return _read(path)


def _read(path: str | Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, sorted. Links are followed, to files and to folders, as a copy of the folder would have what
    they lead to. BadInput where the folder is missing, for a link that leads to nothing, or back to a folder that it lies
    in."""
    if not folder.is_dir():
        raise BadInput(folder, "missing")
    return sorted(_walk(folder, (folder.resolve(),)))


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if entry.is_dir():
                real = path.resolve()
                if entry.is_symlink() and real in above:
                    raise BadInput(path, f"a link back to {real}, in which it lies: it has no end")
                yield from _walk(path, (*above, real))
            elif entry.is_file():
                yield path
            elif entry.is_symlink():
                raise BadInput(path, f"a link to {os.readlink(path)}, which is not there")
