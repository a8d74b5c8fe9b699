"""Digests of files, and the files of a folder: the basis of cache keys and versions."""

import functools
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from components.errors import BadInput

# A file written this recently could change again with the same modification time: its digest is not cached.
SETTLED = 2.0  # seconds


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex. A file is not read again while its size, device, inode and times of change are the
    same."""
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
    """All files below a folder, sorted. Links to files and folders are followed. BadInput where the folder is missing, for a
    broken link, and for a link to a folder that contains it."""
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
                    raise BadInput(path, f"a link back to {real}, which contains it: an endless loop")
                yield from _walk(path, (*above, real))
            elif entry.is_file():
                yield path
            elif entry.is_symlink():
                raise BadInput(path, f"a link to {os.readlink(path)}, which does not exist")
