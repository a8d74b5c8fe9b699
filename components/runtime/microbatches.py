"""Inference on a CPU with one core per microbatch."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, Self

import torch

ROWS = 8  # rows of a batch per core


class Rows(Protocol):
    """What a batch consists of besides tensors: something that splits by rows as they do."""

    def split(self, rows: int) -> tuple[Self, ...]:
        """Parts of `rows` rows in order; the last one may be shorter."""
        ...


def in_microbatches(
    function: Callable[..., torch.Tensor], first: torch.Tensor, *more: torch.Tensor | Rows, rows: int = ROWS
) -> torch.Tensor:
    """function(first, *more), a tensor with a row for each row of the batch that depends on that row alone.

    On a CPU without gradients, threads with one core each compute microbatches of `rows` rows. Operations of a small model
    are too short to parallelise, microbatches are not: two cores sample the shapes world 1.6 times as fast, and the bits do
    not depend on their number. Calls of `function` must not write to shared state. All cores compute a batch of one
    microbatch; a GPU gets the whole batch.
    """
    batch = (first, *more)
    if first.device.type != "cpu" or torch.is_grad_enabled() or len(first) <= rows:
        return function(*batch)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # new threads follow it in their first operation
    try:
        parts = pool(threads).map(torch.no_grad()(function), *(part.split(rows) for part in batch))
        return torch.cat(list(parts))
    finally:
        torch.set_num_threads(threads)


@functools.cache
def pool(threads: int) -> ThreadPoolExecutor:
    """A pool that is reused, as its threads keep their freed memory."""
    return ThreadPoolExecutor(threads, thread_name_prefix="part")
