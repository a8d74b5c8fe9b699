"""Mutual exclusion of processes by a lock on a folder, which ends with its process even after a kill."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from components.errors import BadInput


@contextmanager
def alone(folder: Path, refused: BadInput | None = None, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Lock `folder`. It is made where missing, may be removed meanwhile, and is removed at the end if empty.

    Where another process holds it, raise `refused`; without `refused`, call `waits` and wait.
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
                    with suppress(OSError):  # not empty
                        folder.rmdir()
                return
        finally:
            os.close(held)


def is_at(folder: Path, held: int) -> bool:
    """Whether `held` is still the folder at this path: its former holder may have removed it."""
    try:
        found = os.stat(folder)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(held))
