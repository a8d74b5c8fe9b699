"""Outputs that one process alone writes."""

import errno
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from components.errors import BadInput, without_passwords

Waits = Callable[[str], None] | None


@contextmanager
def sole_writer(path: str | Path, waits: Waits = None) -> Iterator[None]:
    """This process alone writes `path`, a file or a folder, until the block ends.

    The lock is the file `.NAME.lock` beside `path`, and `path` itself where it is a folder. Where nothing can be written
    beside a folder (a mounted output), the folder alone is locked. All names of one folder are one lock. It ends with the
    process, even a killed one. Locks of one process exclude each other as well. Missing folders are made. Where another
    process writes `path`, this one calls `waits` with the number and command of that process, and waits for its end.

    Raises:
        BadInput: another process writes `path`, and there is no `waits`; or `path` cannot be locked.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    # A link to a file counts by its own name, which a new file replaces.
    place = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
    if not place.name:
        raise BadInput(path, "is the root of all folders; give one below it")
    lock = place.with_name(f".{place.name}.lock")
    with ExitStack() as stack:
        held = _take(lock, path, waits)
        if held is not None:
            stack.callback(os.close, held)
            stack.callback(_remove, lock)  # while it is held: a process that opened it before looks again
            _sign(held)
        elif not place.is_dir():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place.parent))
        if place.is_dir():
            _take_folder(place, path, waits, stack, needed=held is None)
        yield


def _take(lock: Path, path: Path, waits: Waits) -> int | None:
    """The descriptor of a lock that this process now holds; None where there is none and none can be made."""
    while (held := _opened(lock, path)) is not None:
        with ExitStack() as stack:
            stack.callback(os.close, held)
            _lock(held, path, waits)
            with suppress(FileNotFoundError):
                # What another user's killed process left is replaced, where the folder permits it.
                if os.path.samestat(os.fstat(held), lock.stat()) and (_writable(held) or not _remove(lock)):
                    stack.pop_all()
                    return held
        # Else its holder has just removed it.
    return None


def _opened(lock: Path, path: Path) -> int | None:
    """A descriptor of the file `lock`, to write where that is permitted, else to read, which is enough to lock it."""
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    try:
        return os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        why = f"cannot be locked: {lock} is another user's; remove it, unless a process of that user still writes"
        raise BadInput(path, why) from error


def _lock(held: int, path: Path, waits: Waits) -> None:
    """Lock an open file or folder, at once or after its holder."""
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(held)
            if waits is None:
                raise BadInput(path, f"is being written by {holder}; wait for its end, or end it") from None
            waits(holder)
            fcntl.flock(held, fcntl.LOCK_EX)
    except OSError as error:  # ENOLCK, EOPNOTSUPP: file systems without locks
        raise BadInput(path, f"cannot be locked ({error.strerror}); choose a place on another disk") from error


def _take_folder(folder: Path, path: Path, waits: Waits, stack: ExitStack, needed: bool) -> None:
    """Lock a folder itself, until the stack ends. Where the lock beside it is held, a file system that locks no folders
    (NFS) is no error."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, held)
    try:
        _lock(held, path, waits)
    except BadInput as error:
        if needed or not isinstance(error.__cause__, OSError):
            raise


def _sign(held: int) -> None:
    """Write this process's number and command into its lock, for others to name."""
    if _writable(held):
        words = without_passwords(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]))
        os.truncate(held, 0)
        os.write(held, f"process {os.getpid()}, {words[:120]}\n".encode())


def _holder(held: int) -> str:
    """What the holder of a lock wrote into it."""
    try:
        return os.read(held, 400).decode(errors="replace").strip() or "another process"
    except IsADirectoryError:
        return "another process"


def _writable(held: int) -> bool:
    return fcntl.fcntl(held, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def _remove(lock: Path) -> bool:
    """Whether the file of a lock is gone; others' files in a shared folder stay."""
    try:
        lock.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return False
    return True
