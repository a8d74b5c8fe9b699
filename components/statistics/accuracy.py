"""Accuracy of pair scores against labels, with and without ties, and its uncertainty.

Labels are 1 (A), -1 (B), 0 (same). A difference m = score(A) - score(B) means "same" where |m| <= threshold, else A or B
by its sign. With ties, the threshold is calibrated as in Deutsch, Foster & Freitag, "Ties Matter" (2023), arXiv
2305.14324, but exactly: all thresholds are tried, "no ties" among them, and equal differences are never torn apart.
`protocol="reference"` gives the published implementation's figure instead, for comparing with numbers made by it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from components.statistics import intervals
from components.statistics.intervals import MIN_PROMPTS

MANY_PROMPTS = 10_000  # above it the bootstrap draws kinds of prompts
AT_ONCE = 1 << 20  # counts of a bootstrap in memory: 8 MB
NO_TIES = 0.0  # with it only differences of exactly 0 count as "same"; they have no sign to be right by


def correct(labels: np.ndarray, differences: np.ndarray, threshold: float = NO_TIES) -> np.ndarray:
    """Whether each pair is judged right under a tie threshold, [N] bool."""
    said = np.where(np.abs(differences) <= threshold, 0, np.sign(differences))
    return said == labels


def fit_tie_threshold(
    labels: np.ndarray, differences: np.ndarray, protocol: Literal["exact", "reference"] = "exact"
) -> tuple[float, float]:
    """The threshold of highest accuracy and that accuracy; of equally good ones the smallest. O(N log N).

    "reference" never tries "no ties", and tears equal differences apart, in the order of the rows: its accuracy may be
    one that no threshold reaches.
    """
    if len(labels) == 0:
        raise ValueError("no labelled pairs to fit a tie threshold on")
    size = np.abs(differences)
    order = np.argsort(size, kind="stable")
    size, labels, sign = size[order], labels[order], np.sign(differences[order])
    # Moving the threshold over a pair turns it from decided to tied: what is gained by each, summed from the smallest
    # on.
    right_as_tie, right_as_decided = labels == 0, (labels == sign) & (labels != 0)
    gained = np.cumsum(right_as_tie.astype(int) - right_as_decided)
    if protocol == "reference":
        right = right_as_decided.sum() + gained
        best = int(right.argmax())
        return float(size[best]), float(right[best] / len(labels))
    last_of_group = np.append(size[1:] != size[:-1], True)
    thresholds = np.append(NO_TIES, size[last_of_group])
    right = right_as_decided.sum() + np.append(0, gained[last_of_group])
    if size[0] == 0:  # NO_TIES is the first group's own threshold then
        thresholds, right = thresholds[1:], right[1:]
    best = int(right.argmax())
    return float(thresholds[best]), float(right[best] / len(labels))


@dataclass(frozen=True)
class Estimate:
    """A share with its 95% interval (bootstrap over prompts) and the number of pairs; None where there are none. No interval
    where the prompts are too few for one (components/statistics/intervals.py)."""

    value: float | None
    ci95: tuple[float, float] | None
    n: int
    prompts: int

    def as_json(self) -> dict:
        return intervals.as_json(self.value, *(self.ci95 or (None, None)), self.n, self.prompts)


def share(hits: np.ndarray, prompts: np.ndarray, rng: np.random.Generator, rounds: int) -> Estimate:
    """Share of hits [N] bool. Prompts [N], not pairs, are drawn anew: pairs of one prompt are not independent."""
    if len(hits) == 0:
        return Estimate(None, None, 0, 0)
    _, group = np.unique(prompts, return_inverse=True)
    pairs = np.bincount(group)
    if len(pairs) < MIN_PROMPTS:
        return Estimate(float(hits.mean()), None, len(hits), len(pairs))
    right = np.bincount(group, weights=hits)
    values = resampled_shares(right, pairs, rng, rounds)
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(float(hits.mean()), (float(low), float(high)), len(hits), len(pairs))


def resampled_shares(right: np.ndarray, pairs: np.ndarray, rng: np.random.Generator, rounds: int) -> np.ndarray:
    """The share right in each of `rounds` draws of prompts with replacement, from the right pairs and all pairs of each
    prompt, [P]. How often each is drawn is multinomial.

    Of more than MANY_PROMPTS, which takes minutes, it is drawn how often prompts of each kind are: those with as many pairs
    and as many right ones are alike, so the shares are distributed just as before.
    """
    weights = np.ones(len(pairs))
    if len(pairs) > MANY_PROMPTS:
        kinds, counts = np.unique(np.stack([right, pairs]), axis=1, return_counts=True)
        (right, pairs), weights = kinds, counts.astype(float)
    chance, drawn = weights / weights.sum(), int(weights.sum())
    both = np.stack([right, pairs], axis=1).astype(float)
    step = max(1, AT_ONCE // len(chance))
    sums = [
        rng.multinomial(drawn, chance, size=min(step, rounds - start)) @ both for start in range(0, rounds, step)
    ]  # [rounds, 2], whole numbers: exact in any order
    hits, all_pairs = np.concatenate(sums).T
    return hits / all_pairs


def without_ties(
    labels: np.ndarray, differences: np.ndarray, prompts: np.ndarray, rng: np.random.Generator, rounds: int
) -> Estimate:
    """Accuracy over the pairs that people decided; a difference of exactly 0 is wrong."""
    decided = labels != 0
    return share(correct(labels, differences)[decided], prompts[decided], rng, rounds)


def with_ties(
    labels: np.ndarray,
    differences: np.ndarray,
    prompts: np.ndarray,
    threshold: float,
    rng: np.random.Generator,
    rounds: int,
) -> Estimate:
    """Accuracy over three classes under a threshold that was fitted before."""
    return share(correct(labels, differences, threshold), prompts, rng, rounds)


def tie_baselines(labels: np.ndarray) -> dict[str, float | None]:
    """With-ties accuracy of knowing nothing: always "same", and random scores under their best threshold, which ties
    either all pairs or none."""
    if len(labels) == 0:
        return {"always_tie": None, "random": None}
    tied = float((labels == 0).mean())
    return {"always_tie": tied, "random": max(tied, (1 - tied) / 2)}
