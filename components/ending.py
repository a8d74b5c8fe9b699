"""End a process that was started here, and all that it started."""

import signal
from contextlib import suppress

import psutil


def end(process: psutil.Process, how: signal.Signals, seconds: float) -> None:
    """Ask for the end in order by signal `how`; after `seconds` end it and what is left of its children in any case."""
    family = [process, *process.children(recursive=True)]
    process.send_signal(how)
    psutil.wait_procs([process], seconds)
    _, left = psutil.wait_procs(family, 2)
    for survivor in left:
        with suppress(psutil.NoSuchProcess):
            survivor.kill()
    psutil.wait_procs(left, 10)
