"""Work that one process does at a time. The lock is on a folder, and ends with the process that holds it, however that
ends."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from components.errors import BadInput


@contextmanager
def alone(folder: Path, refused: BadInput | None = None, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Have `folder`, which is made where it is missing and may be removed meanwhile, for this process alone. It is removed
    where nothing is in it in the end.

    Where another has it, raise `refused`; without that, call `waits` and wait for it.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if refused:
                    raise refused from None
                waits()
                fcntl.flock(held, fcntl.LOCK_EX)
            if is_at(folder, held):
                try:
                    yield
                finally:
                    with suppress(OSError):  # something is in it
                        folder.rmdir()
                return
        finally:
            os.close(held)


def is_at(folder: Path, held: int) -> bool:
    """Whether the folder is the one that is open: the process that had it may have removed it."""
    try:
        found = os.stat(folder)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(held))
