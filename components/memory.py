"""Reuse of freed memory."""

import ctypes
from contextlib import suppress

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc


def keep_freed_memory() -> None:
    """Make malloc keep freed memory for reuse, from here on in this process.

    By default glibc returns freed blocks of a few hundred kilobytes and more to the system, which zeroes pages for the next
    one: a quarter of the time of small models on a CPU. The peak of memory is the same; an idle process keeps its peak.
    """
    with suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((MMAP_THRESHOLD, 32 << 20), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 64 << 20)):
            mallopt(parameter, value)
