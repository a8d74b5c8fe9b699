"""Keep freed memory for the next tensor, and give back what only a large request needed."""

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc
KEPT = ((MMAP_THRESHOLD, 32 << 20), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 64 << 20))
TRIMMING = 1 << 17  # bytes: of a block so large glibc looks, when it is freed, whether the end of its arena can go


def keep_freed_memory() -> None:
    """Make malloc keep freed memory for reuse, from here on in this process.

    By default glibc returns freed blocks of a few hundred kilobytes and more to the system, which zeroes pages for the next
    one: a quarter of the time of small models on a CPU. The peak of memory is the same; an idle process keeps its peak.
    """
    with suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in KEPT:
            mallopt(parameter, value)


class SpareMemory:
    """What malloc keeps free in a process of keep_freed_memory, given back to the system where it is more than usual.

    usual: pages of the process's own when that was done last. pool: of `threads` that allocate too, each in an arena of its
    own, whose end glibc gives back to none but a thread that frees in it.
    """

    SECONDS = 5.0  # from one time to the next at least: what is used all the time stays
    MORE = 1.1

    def __init__(self, pool: ThreadPoolExecutor, threads: int):
        self.pool, self.threads = pool, threads
        self.usual, self.again = 0, 0.0

    def give_back(self) -> None:
        """Of a process with nothing under way in `pool`."""
        if time.monotonic() < self.again or own_pages() <= self.MORE * self.usual:
            return
        with suppress(AttributeError):
            self._trim(ctypes.CDLL(None))
        self.usual, self.again = own_pages(), time.monotonic() + self.SECONDS

    def _trim(self, libc: ctypes.CDLL) -> None:
        libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        all_at_it = Barrier(self.threads)

        def free_one(_: int) -> None:
            all_at_it.wait()
            libc.free(libc.malloc(TRIMMING))

        libc.mallopt(TRIM_THRESHOLD, 0)
        libc.mallopt(TOP_PAD, 0)
        list(self.pool.map(free_one, range(self.threads)))
        libc.malloc_trim(0)
        for parameter, value in KEPT:
            libc.mallopt(parameter, value)


def own_pages() -> int:
    """Pages in memory that are this process's alone; 0 where the system does not say."""
    with suppress(FileNotFoundError):
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
        return resident - shared
    return 0
