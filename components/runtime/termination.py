"""End a process that was started here, and all that it started; and do what a signal must not cut short."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

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


class HeldSignals:
    """In `with`: SIGINT and SIGTERM do nothing until the end, so that what was begun is finished or taken back; but for a
    part that may be left at any time, in `with held.interruptible():`. There the first of them acts. Threads beside the main
    one get no signals, and hold none."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.open = False
        self.came: list[int] = []
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "HeldSignals":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._handle) for number in self.NUMBERS}
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.came and kind is None:
            signal.raise_signal(self.came[0])

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        if self.came:
            self._act(self.came.pop(0))
        self.open = True
        try:
            yield
        finally:
            self.open = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.open:
            self.open = False  # a second one would disturb what the first one leaves to be taken back
            self._act(number)
        else:
            self.came.append(number)

    def _act(self, number: int) -> NoReturn:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)  # as a shell has it
