"""Atomic writing of files."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path, sync: bool = True) -> Iterator[Path]:
    """A temporary file beside `path`; it replaces `path` where the block ends without an error.

    After an error, a full disk or an interrupt the temporary file is removed, and an earlier `path` is unchanged. Missing
    folders are made. With `sync` the bytes are on the disk before the rename: a power failure leaves the old file or the new
    one. That costs milliseconds; clips are written without it, as a stage writes thousands and can draw them again.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(4)}.partial")
    try:
        yield partial
        if sync:
            with open(partial, "rb") as stream:
                os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def partial_folder(out: Path) -> Path:
    """Folder beside a file for its unfinished parts; removed when the file is done."""
    return out.with_name(f"{out.name}.partial")
