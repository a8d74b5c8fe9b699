"""Watch processes that a test started: wait for something, and for all of them to be gone."""

import contextlib
import signal
import time
from collections.abc import Callable

import psutil

PATIENCE = 120  # seconds on a busy machine; nothing is asserted on time


def heed_interrupts() -> None:
    """For preexec_fn of a process that is sent SIGINT: a shell's background job, and all below it, ignore that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def until(holds: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {patience} s"
        time.sleep(0.05)


def all_below(pid: int) -> list[psutil.Process]:
    """Processes below it, but for multiprocessing's resource tracker, which stays as long as the process itself."""
    found = psutil.Process(pid).children(recursive=True)
    return [process for process in found if "resource_tracker" not in command_of(process)]


def command_of(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return " ".join(process.cmdline())
    return ""


def until_gone(processes: list[psutil.Process]) -> None:
    until(lambda: not any(_runs(process) for process in processes), f"end of {processes}")


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
