"""Files and folders that appear whole or not at all.

Nothing else renames what matters: `put_in_place` brings the bytes to the disk first, so that a power failure leaves what was
there before or all of the new, and never a name without its content.
"""

import ctypes
import glob
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from components.errors import BadInput
from components.files.locks import sole_writer


@contextmanager
def whole_file(path: str | Path, sync: bool = True, private: bool = False) -> Iterator[Path]:
    """A place beside `path` to write to; its content becomes `path` where the block ends without an error.

    After an error, a full disk or an interrupt nothing of it is left, and an earlier `path` is as it was. Missing folders
    are made. With `sync` the rename comes after the bytes are on the disk: a power failure leaves the old file or the new
    one. It costs milliseconds: clips, of which a stage writes thousands and which it can draw again, go without. A `private`
    file is its owner's alone to read, from its first byte on.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(4)}.partial")
    try:
        if private:
            partial.touch(0o600)
        yield partial
        if sync:
            put_in_place(partial, path)
        else:
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def atomic_write(path: str | Path, content: str | bytes, private: bool = False) -> None:
    """Write a file by whole_file: it appears with all of its content, text in UTF-8."""
    with whole_file(path, private=private) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def partial_folder(out: Path) -> Path:
    """Folder beside a file for its unfinished parts; removed when the file is done."""
    return out.with_name(f"{out.name}.partial")


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """An empty place beside `path` to make a folder at; it becomes `path`, which must not be there, where the block ends
    without an error. Each process has a place of its own; those that killed processes left are removed."""
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.????????.partial"):
        with suppress(BadInput), sole_writer(left):  # held while its process lives
            shutil.rmtree(left, ignore_errors=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with sole_writer(partial):
        try:
            yield partial
            put_in_place(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def put_in_place(partial: str | Path, path: str | Path) -> None:
    """Rename a file, or a folder to where none is, once all its bytes are on the disk; then the new name is made to last
    too."""
    partial, path = Path(partial), Path(path)
    if partial.is_dir():
        _sync_file_system(partial)
    else:
        _sync(partial)
    os.replace(partial, path)
    _sync(path.parent)


def discard(path: Path, why: object) -> None:
    """Remove a file or folder of our own that is damaged, and say so in one line; what reads it makes it anew."""
    print(f"{path}: damaged ({' '.join(str(why).split())[:200]}); it is made anew", file=sys.stderr, flush=True)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Bring a file's bytes, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file_system(folder: Path) -> None:
    """Bring all that was written on a folder's file system to the disk: one call, where fsync takes milliseconds a file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(descriptor)
