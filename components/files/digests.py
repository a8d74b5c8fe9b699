"""Digests of files, and the files of a folder: the basis of cache keys and versions."""

import functools
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from components.errors import BadInput

# A file written this recently could change again with the same modification time: its digest is not cached.
SETTLED = 2.0  # seconds
# Digests of large files outlive the process: each stage starts with those of all its inputs. DVC's own record leaves out the
# time of change, which no program can set back.
RECORD = Path(".reelign/digests.sqlite")
LARGE = 1 << 24  # bytes


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex. A file is not read again while its size, device, inode and times of change are the
    same."""
    now = time.time_ns()
    state = _state(path)
    if max(state[3:]) >= now - SETTLED * 1e9:
        return _read(path)
    return _remembered(str(path), *state)


def _state(path: str | Path) -> tuple[int, ...]:
    with open(path, "rb") as stream:
        found = os.fstat(stream.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@functools.lru_cache(maxsize=1 << 20)
def _remembered(path: str, *state: int) -> str:
    if state[2] < LARGE or not RECORD.parent.is_dir():
        return _read(path)
    if (known := _recorded(state)) is not None:
        return known
    digest = _read(path)
    if _state(path) == state:  # else it changed while it was read
        _record(state, digest)
    return digest


def _recorded(state: tuple[int, ...]) -> str | None:
    """The digest on record of a file in this state. A record that cannot be read is begun anew."""
    try:
        with closing(_open()) as record:
            found = record.execute("SELECT digest FROM files WHERE state = ?", (str(state),)).fetchone()
    except sqlite3.OperationalError:  # locked, or not to be written here
        return None
    except sqlite3.DatabaseError:
        RECORD.unlink(missing_ok=True)
        return None
    return found[0] if found else None


def _record(state: tuple[int, ...], digest: str) -> None:
    with suppress(sqlite3.Error), closing(_open()) as record, record:
        record.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", (str(state), digest))


def _open() -> sqlite3.Connection:
    record = sqlite3.connect(RECORD, timeout=10)
    with suppress(sqlite3.OperationalError):
        record.execute("CREATE TABLE IF NOT EXISTS files (state TEXT PRIMARY KEY, digest TEXT NOT NULL)")
    return record


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
