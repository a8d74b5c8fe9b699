"""Outputs that one process alone writes."""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from components.errors import BadInput, without_passwords


@contextmanager
def sole_writer(path: str | Path, waits: Callable[[str], None] | None = None) -> Iterator[None]:
    """This process alone writes `path`, a file or a folder, until the block ends.

    The lock is the file `.NAME.lock` beside `path`. It ends with the process, even a killed one. Locks of one process
    exclude each other as well. Missing folders are made. Where another process writes `path`, this one calls `waits` with
    the number and command of that process, and waits for its end.

    Raises:
        BadInput: another process writes `path`, and there is no `waits`.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    held = _take(lock, path, waits)
    try:
        words = without_passwords(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]))
        os.truncate(held, 0)
        os.write(held, f"process {os.getpid()}, {words[:120]}\n".encode())
        yield
    finally:
        lock.unlink(missing_ok=True)  # while it is held: a process that opened it before looks again
        os.close(held)


def _take(lock: Path, path: Path, waits: Callable[[str], None] | None) -> int:
    """The descriptor of a lock that this process now holds."""
    while True:
        held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(held, 400).decode(errors="replace").strip() or "another process"
            if waits is None:
                os.close(held)
                raise BadInput(path, f"is being written by {holder}; wait for its end, or end it") from None
            waits(holder)
            fcntl.flock(held, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(held), lock.stat()):
                return held
        os.close(held)  # its holder has just removed it
