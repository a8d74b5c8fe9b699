"""Test of a win rate against one half, paired with prompts as units, and Holm's correction over the cells of a table.

Null hypothesis: the two generators of a prompt's clips are exchangeable. Swapping them mirrors all points of the prompt
around one half, so each prompt's sum of (points - 1/2) has either sign with equal probability, independently of other
prompts; correlation between its seeds does not matter. This is the sign-flip (randomisation) test of Fisher 1935, "The
Design of Experiments", sec. 21, on clusters. Where the win rate is one half without that symmetry, the test still holds in
the limit of many prompts (Romano 1990, "On the Behavior of Randomization Tests Without a Group Invariance Assumption", JASA
85).

Points are halves, so the statistic is an integer, and its distribution over all 2^P flips comes from P convolutions (Pagano
and Tritchler 1983, "On Obtaining Permutation Distributions in Polynomial Time", JASA 78). The p-value is exact for any
number of prompts and needs no seed.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

ROUNDED = 1e-280  # smaller p-values lose precision in floating-point sums
LEAST = math.ulp(0.0)  # 5e-324
LEVEL = 0.05  # of the marks in report and summary


def sign_flip_p(points: np.ndarray, prompts: np.ndarray) -> float:
    """Two-sided p-value for a win rate of one half: share of the sign flips with a win rate at least as far from it.

    Args:
        points: [N] 1 for a win, 0 for a loss, one half for a tie (win_rates.points).
        prompts: [N] the prompt of each pair.

    Returns:
        A p-value in (0, 1]; at least 2 / 2^P for P prompts, and at least 5e-324. 1 where all pairs are ties.

    Raises:
        ValueError: points other than these three, or lists of different lengths.
    """
    points, prompts = np.asarray(points, dtype=np.float64), np.asarray(prompts)
    if points.ndim != 1 or points.shape != prompts.shape:
        raise ValueError(f"points {points.shape} and prompts {prompts.shape} must have the same length")
    if not np.isin(points, (0.0, 0.5, 1.0)).all():
        raise ValueError("points must be 0, 1/2 or 1")
    _, cluster = np.unique(prompts, return_inverse=True)
    leads = np.bincount(cluster, weights=2 * points - 1).round().astype(int)  # wins less losses of each prompt
    steps = np.abs(leads[leads != 0])
    chance = np.ones(1)  # of each sum from -reach to reach, in that order
    for step in steps:
        wider = np.zeros(len(chance) + 2 * step)
        wider[: len(chance)] += chance / 2
        wider[2 * step :] += chance / 2
        chance = wider
    reach, lead = int(steps.sum()), abs(int(leads.sum()))
    as_far = np.abs(np.arange(-reach, reach + 1)) >= lead
    found = float(min(1.0, chance[as_far].sum()))
    return found if found > ROUNDED else _tail(steps.tolist(), (reach - lead) // 2)


def _tail(steps: list[int], most: int) -> float:
    """Twice the share of the subsets of `steps` with a sum of at most `most`, in integers, as floats underflow below 1e-308.
    At least the smallest positive float, as no p-value is 0."""
    width = len(steps) + 1  # bits: a count of subsets is at most 2^P
    kept = (1 << width * (most + 1)) - 1
    counts = 1  # counts by sum, packed into one integer, sum 0 lowest
    for step in steps:
        counts = (counts + (counts << width * step)) & kept
    subsets = sum(counts >> width * place & (1 << width) - 1 for place in range(most + 1))
    return max(float(Fraction(2 * subsets, 1 << len(steps))), LEAST)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of a family, corrected (Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure"), in the given
    order. Rejecting those up to a level bounds the family-wise error rate by it, under any dependence of the tests."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(order))
    scaled = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected.tolist()


def correct_family(cells: Sequence[dict]) -> None:
    """Add `p_holm` to each cell with `p`; the given cells are the family."""
    for cell, corrected in zip(cells, holm([cell["p"] for cell in cells]), strict=True):
        cell["p_holm"] = corrected
