"""The ways in which a command fails on purpose; each has its own exit code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


# Both keep what they were given as their args: an exception is pickled as its args, to come back from a worker process.
class BadInput(Exception):
    """Something the user gave cannot be used: one line that names file, row and key. Exit code 2."""

    def __init__(self, file: str | Path, why: str, row: int | None = None, key: str | None = None):
        super().__init__(file, why, row, key)

    def __str__(self) -> str:
        file, why, row, key = self.args
        place = str(file)
        if row is not None:
            place += f", row {row}"
        if key is not None:
            place += f", key '{key}'"
        return f"{place}: {why}"


class NonFinite(Exception):
    """A loss, gradient or clip became NaN or infinite: the work stops, no number is made of it. `step`: of a training, whose
    last checkpoint is kept. Exit code 3."""

    def __init__(self, what: str, step: int | None = None):
        super().__init__(what, step)

    def __str__(self) -> str:
        what, step = self.args
        after = "" if step is None else f" at step {step}; the last checkpoint before it is kept"
        return f"{what} is not finite{after}"


class Unreachable(Exception):
    """A service did not answer for as long as we wait. Nothing is wrong with what was given: run it again later. Exit
    code 4."""

    def __init__(self, where: str, why: str):
        super().__init__(f"{where}: {why}")


NO = 5  # exit code where nothing failed and the answer is no: scores have drifted, a challenger is refused
UNKNOWN = 6  # exit code where nothing failed and there is too little to tell
EXIT_CODES = {BadInput: 2, NonFinite: 3, Unreachable: 4}


@contextmanager
def exit_codes() -> Iterator[None]:
    """One line and an exit code of its own in place of a traceback, for errors made for the user's eyes."""
    try:
        yield
    except tuple(EXIT_CODES) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_CODES[type(error)])
