"""Which examples a training step has, and its seed. Both depend on the step alone, so a killed run resumes exactly."""

from dataclasses import dataclass

import numpy as np
import torch

WINDOW = 32  # batches among which examples are exchanged to group similar lengths


@dataclass(frozen=True)
class Batches:
    """Which examples of `count` a microbatch has, and the seed of its randomness."""

    count: int
    size: int
    seed: int
    lengths: np.ndarray | None

    def indices(self, position: int, process: int, processes: int) -> list[int]:
        return batch_indices(position, self.size, self.count, self.seed, self.lengths)[process::processes]

    def generator(self, position: int, process: int) -> torch.Generator:
        return torch.Generator().manual_seed(_fold(self.seed, position, process))


def batch_indices(position: int, batch_size: int, count: int, seed: int, lengths: np.ndarray | None = None) -> list[int]:
    """Examples of the `position`-th batch: epochs are concatenated independent permutations, so a step needs no history.

    With `lengths` [count] each epoch is sorted into batches of similar lengths; see like_lengths.
    """
    start = position * batch_size
    indices = []
    for epoch in range(start // count, (start + batch_size - 1) // count + 1):
        order = np.random.default_rng([seed, epoch]).permutation(count)
        if lengths is not None:
            # The first batch within this epoch; the one before it is shared with the last epoch.
            order = like_lengths(order, lengths, batch_size, first=-epoch * count % batch_size)
        indices += order[max(0, start - epoch * count) : start + batch_size - epoch * count].tolist()
    return indices


def like_lengths(order: np.ndarray, lengths: np.ndarray, batch_size: int, first: int) -> np.ndarray:
    """An epoch's order [N] with examples exchanged among the batches of a window, so that each batch, from index `first`
    on, has similar lengths. Batches shared with the epochs before and after are unchanged.

    Batches of a window are sorted by their earliest example: long ones are not all last, and equal lengths leave the order
    unchanged.
    """
    order = order.copy()
    last = first + (len(order) - first) // batch_size * batch_size
    for start in range(first, last, WINDOW * batch_size):
        window = order[start : min(start + WINDOW * batch_size, last)]
        batches = np.argsort(lengths[window], kind="stable").reshape(-1, batch_size)
        batches = batches[np.argsort(batches.min(1))]
        order[start : start + len(window)] = window[batches.ravel()]
    return order


def _fold(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
