"""Standard input into a log file of bounded size: `python bounded_log.py FILE`, until its writers are gone.

A file that has grown to LIMIT becomes FILE.1, in the place of the one before. Both are their owner's alone. It imports the
standard library alone: one such process runs beside each service.
"""

import os
import signal
import sys
from pathlib import Path

LIMIT = 64 << 20  # bytes of a file


def keep(source: int, file: Path, limit: int = LIMIT) -> None:
    """Write what comes from the descriptor `source`, as it comes, until its end."""
    log = _begin(file)
    size = 0
    while data := os.read(source, 1 << 16):
        if size and size + len(data) > limit:
            os.close(log)
            os.replace(file, file.with_name(f"{file.name}.1"))
            log, size = _begin(file), 0
        size += len(data)
        while data:
            data = data[os.write(log, data) :]
    os.close(log)


def _begin(file: Path) -> int:
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.fchmod(log, 0o600)  # one of an earlier start
    return log


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends after what it writes for
    keep(0, Path(sys.argv[1]))
