"""Expected failures of a command, each with an exit code."""

import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

# Of an address, RFC 3986; also of one that was taken for a path, which has one slash less, of one without its colon, and of
# one whose password has a slash. (A number and a slash are a port, and what follows is a path.)
USERINFO = re.compile(r"(?:(?<=:/)(/?)|(?<=//))(?:[^\s/?#:@]+:(?!\d+/)[^\s'\"]*|[^\s/?#]*)@")


# BadInput and NonFinite keep their arguments as args: an exception from a worker process is pickled as its args.
class BadInput(Exception):
    """Unusable input: one line that names file, row and key. Exit code 2."""

    def __init__(self, file: str | Path, why: str, row: int | None = None, key: str | None = None):
        super().__init__(file, why, row, key)

    def __str__(self) -> str:
        file, why, row, key = self.args
        place = str(file)
        if row is not None:
            place += f", row {row}"
        if key is not None:
            place += f", key '{key}'"
        return visible(without_passwords(f"{place}: {why}"))


def without_passwords(text: str) -> str:
    """The text with user name and password taken out of every address in it."""
    return USERINFO.sub(r"\1", text)


def visible(text: str) -> str:
    """The text in one line, with an escape (\\u200b) for each character that is invisible or looks like a space."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode() for letter in text
    )


class NonFinite(Exception):
    """A loss, gradient or clip became NaN or infinite: the stage stops without a result. `step`: of a training, whose last
    checkpoint is kept. Exit code 3."""

    def __init__(self, what: str, step: int | None = None):
        super().__init__(what, step)

    def __str__(self) -> str:
        what, step = self.args
        after = "" if step is None else f" at step {step}; the last checkpoint before it is kept"
        return f"{what} is not finite{after}"


class Unreachable(Exception):
    """A service did not respond within the time limit. The input is fine: run it again later. Exit code 4."""

    def __init__(self, where: str, why: str):
        super().__init__(without_passwords(f"{where}: {why}"))


NO = 5  # exit code where nothing failed and the answer is no: scores have drifted, a challenger is refused
UNKNOWN = 6  # exit code where nothing failed and there is too little to tell
ALARM = 7  # exit code where the look itself went well and what it saw cannot wait: most requests are refused
INTERRUPTED = 130  # exit code after Ctrl-C, as a shell has it
EXIT_CODES = {BadInput: 2, NonFinite: 3, Unreachable: 4}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Errors of paths that the user gave.
UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}


class exit_codes:
    """Context manager that prints one line and exits with a code instead of a traceback, for expected errors, a full or
    read-only disk, and Ctrl-C. Every other exception passes through."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            return
        if isinstance(error, KeyboardInterrupt):
            print("interrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)
        for known, code in EXIT_CODES.items():
            if isinstance(error, known):
                print(f"error: {error}", file=sys.stderr)
                sys.exit(code)
        if (found := disk_error(error)) is not None:
            line, code = found
            print(f"error: {line}", file=sys.stderr)
            sys.exit(code)


def disk_error(error: BaseException) -> tuple[str, int] | None:
    """(line, exit code) where an exception or its cause is a full disk (4: make room, run it again) or a path that cannot be
    written or read (2); None for all others."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in FULL | UNUSABLE:
            place = cause.filename or f"disk of {Path.cwd()}"
            return f"{place}: {os.strerror(cause.errno)}", 4 if cause.errno in FULL else 2
        if isinstance(cause, shutil.Error):  # of a folder's copy, which keeps the reasons of its files as text alone
            for number in FULL | UNUSABLE:
                if f"[Errno {number}]" in str(cause):
                    return f"copy of a folder: {os.strerror(number)}", 4 if number in FULL else 2
        # Libraries that write without Python: safetensors, SQLite below MLflow.
        if "(os error 28)" in str(cause) or "database or disk is full" in str(cause):
            return f"disk of {Path.cwd()}: {os.strerror(errno.ENOSPC)}", 4
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and its chain of causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
