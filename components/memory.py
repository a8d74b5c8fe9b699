"""Keep freed memory for the next tensor, and give back what only a large request needed."""

import ctypes
import time
from contextlib import suppress
from pathlib import Path

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8  # malloc.h of glibc


def keep_freed_memory() -> None:
    """Let malloc use again what tensors leave, from here on in this process.

    By default glibc gives blocks of a few hundred kilobytes and more back to the system as soon as they are free, and the
    system zeroes pages for the next one: with the small models of a CPU, a quarter of the time. Memory in use peaks as
    before; a process that is idle keeps its peak.
    """
    with suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((MMAP_THRESHOLD, 32 << 20), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 64 << 20)):
            mallopt(parameter, value)


class SpareMemory:
    """What malloc keeps free in this process, given back to the system where it is more than usual; `usual` is the process's
    own memory when that was done last. To be made before threads are: all allocate from one arena then, as glibc gives back
    the end of no other."""

    SECONDS = 5.0  # from one time to the next at least: what is used all the time stays
    MORE = 1.1

    def __init__(self):
        self.usual, self.again = 0, 0.0
        with suppress(AttributeError):
            ctypes.CDLL(None).mallopt(ARENA_MAX, 1)

    def give_back(self) -> None:
        if time.monotonic() < self.again or own_pages() <= self.MORE * self.usual:
            return
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        self.usual, self.again = own_pages(), time.monotonic() + self.SECONDS


def own_pages() -> int:
    """Pages in memory that are this process's alone; 0 where the system does not say."""
    with suppress(FileNotFoundError):
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
        return resident - shared
    return 0
