"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path, sync: bool = True) -> Iterator[Path]:
    """A place beside `path` to write to; its content becomes `path` where the block ends without an error.

    After an error, a full disk or an interrupt nothing of it is left, and an earlier `path` is as it was. Missing folders
    are made. With `sync` the rename comes after the bytes are on the disk: a power failure leaves the old file or the new
    one. It costs milliseconds: clips, of which a stage writes thousands and which it can draw again, go without.
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
    """What belongs to a file that is not done, beside it; removed when it is."""
    return out.with_name(f"{out.name}.partial")
