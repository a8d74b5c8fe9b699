"""Correlation of scores with people's ratings of single clips, across all clips and within prompts, with 95% intervals.

Spearman's rho (ranks, ties at their mean rank), Kendall's tau-b and Pearson's r. Across prompts a coefficient also counts
which prompts are hard; within prompts it is the mean of each prompt's own, and counts which clip of a prompt is better. A
prompt whose ratings are all equal is left out; where ratings differ and all scores are equal, its coefficient is 0.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from components.statistics.accuracy import resampled_shares
from components.statistics.intervals import MIN_PROMPTS, as_json


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Of two lists [N] with some spread each."""
    x, y = x - x.mean(), y - y.mean()
    # Of scaled lists, as squares of very small or large numbers leave the range of floats.
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return float(np.clip((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()), -1, 1))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.stats import rankdata

    return pearson(rankdata(x), rankdata(y))


def kendall(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.stats import kendalltau

    found: Any = kendalltau(x, y)
    return float(found.statistic)


COEFFICIENTS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "spearman": spearman,
    "kendall": kendall,
    "pearson": pearson,
}


def correlations(
    ratings: np.ndarray, scores: np.ndarray, prompts: np.ndarray, rng: np.random.Generator, rounds: int
) -> dict[str, dict[str, dict]]:
    """{"across", "within"}: coefficient to its estimate (components/statistics/intervals.py) with the number of prompts.

    ratings, scores, prompts: [N], of rated clips alone. Prompts, not clips, are drawn anew for an interval; across, a draw
    in which all ratings or scores are equal is left out. Where there is no spread at all the value is null.
    """
    _, group = np.unique(prompts, return_inverse=True)
    return {
        "across": _across(ratings, scores, group, rng, rounds, COEFFICIENTS),
        "within": _within(ratings, scores, group, rng, rounds),
    }


def rank_correlation(x: np.ndarray, y: np.ndarray, prompts: np.ndarray, rng: np.random.Generator, rounds: int) -> dict:
    """Spearman's rho of two lists [N], with an interval over prompts [N], as in `correlations`."""
    _, group = np.unique(prompts, return_inverse=True)
    return _across(x, y, group, rng, rounds, {"spearman": spearman})["spearman"]


def _across(
    x: np.ndarray,
    y: np.ndarray,
    group: np.ndarray,
    rng: np.random.Generator,
    rounds: int,
    wanted: dict[str, Callable[[np.ndarray, np.ndarray], float]],
) -> dict[str, dict]:
    count = int(group.max()) + 1 if len(group) else 0
    if not (_spread(x) and _spread(y)):
        return {name: _estimate(None, None, None, len(x), count) for name in wanted}
    drawn: dict[str, list[float]] = {name: [] for name in wanted}
    for _ in range(rounds if count >= MIN_PROMPTS else 0):
        places = np.repeat(np.arange(len(x)), rng.multinomial(count, np.full(count, 1 / count))[group])
        if _spread(x[places]) and _spread(y[places]):
            for name, of in wanted.items():
                drawn[name].append(of(x[places], y[places]))
    found = {}
    for name, of in wanted.items():
        low, high = np.quantile(drawn[name], [0.025, 0.975]).tolist() if drawn[name] else (None, None)
        found[name] = _estimate(of(x, y), low, high, len(x), count)
    return found


def _within(x: np.ndarray, y: np.ndarray, group: np.ndarray, rng: np.random.Generator, rounds: int) -> dict[str, dict]:
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    ranked = [part for part in parts if _spread(x[part])]
    clips = sum(map(len, ranked))
    found = {}
    for name, of in COEFFICIENTS.items():
        own = np.array([of(x[part], y[part]) if _spread(y[part]) else 0.0 for part in ranked])
        low = high = None
        if len(own) >= MIN_PROMPTS:
            draws = resampled_shares(own, np.ones(len(own)), rng, rounds)
            low, high = np.quantile(draws, [0.025, 0.975]).tolist()
        found[name] = _estimate(float(own.mean()) if len(own) else None, low, high, clips, len(own))
    return found


def _spread(x: np.ndarray) -> bool:
    return len(x) > 1 and bool((x != x[0]).any())


def _estimate(value: float | None, low: float | None, high: float | None, n: int, prompts: int) -> dict:
    return as_json(value, low, high, n, prompts) | {"prompts": prompts}
