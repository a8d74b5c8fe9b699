"""End a process that was started here, with its children."""

import signal
from contextlib import suppress

import psutil


def end(process: psutil.Process, how: signal.Signals, seconds: float) -> None:
    """Send signal `how` for an orderly end; after `seconds` kill the process and its remaining children."""
    family = [process, *process.children(recursive=True)]
    process.send_signal(how)
    psutil.wait_procs([process], seconds)
    _, left = psutil.wait_procs(family, 2)
    for survivor in left:
        with suppress(psutil.NoSuchProcess):
            survivor.kill()
    psutil.wait_procs(left, 10)
