"""How far judges agree with each other on the same clips."""

import itertools
from typing import Any

import numpy as np
from scipy import stats

from components.evaluation.win_rates import mean_interval

LEAST_METHODS = 3  # for a rank correlation


def judges_agreement(points: dict[str, np.ndarray], prompts: np.ndarray, resamples: int, seed: int) -> dict[str, dict]:
    """Agreement of each two judges, by "ONE/OTHER".

    points: by judge, [methods, N] of the methods' clips against base's, Overall, NaN where it has no verdict. prompts: the
    prompt of each, the same shape.

    `same`: share of pairs of clips in which both prefer the same one, of those that both decide, with its 95% interval over
    prompts; null without any. `methods`: Spearman's rank correlation of the two judges' win rates over methods, over the
    pairs that both have verdicts on; null with fewer than three methods, or where a judge has them all level.
    """
    found = {}
    for one, other in itertools.combinations(points, 2):
        sides = np.sign(points[one] - 0.5), np.sign(points[other] - 0.5)
        known = np.isfinite(sides[0]) & np.isfinite(sides[1])
        decided = known & (sides[0] != 0) & (sides[1] != 0)
        same = (sides[0] == sides[1])[decided].astype(float)
        rng = np.random.default_rng(seed)
        share = mean_interval(same, prompts[decided], resamples, rng).as_json() if len(same) else None
        means = [(points[one][at][row].mean(), points[other][at][row].mean()) for at, row in enumerate(known) if row.any()]
        found[f"{one}/{other}"] = {"same": share, "methods": rank_correlation(means), "n_methods": len(means)}
    return found


def rank_correlation(pairs: list[tuple[float, float]]) -> float | None:
    """Spearman's rank correlation; None with too few methods, or where one side does not vary."""
    if len(pairs) < LEAST_METHODS:
        return None
    one, other = map(list, zip(*pairs, strict=True))
    if len(set(one)) < 2 or len(set(other)) < 2:
        return None
    found: Any = stats.spearmanr(one, other)
    return float(found.statistic)
