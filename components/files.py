"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
            with open(partial, "rb") as stream:
                os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
