"""Win rates and mean differences of a method against the base generator, with 95% intervals over prompts.

Clips of one prompt are correlated, so the prompt is the unit of resampling: the bootstrap resamples prompts with all their
seeds (cluster bootstrap). The quantiles are those of the expanded percentile interval (Hesterberg 2015, "What Teachers
Should Know about the Bootstrap", sec. 4.3), which widens the plain percentile interval by the factor of a t interval;
without it, intervals over a few dozen prompts have less than nominal coverage.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from components.statistics import intervals
from components.statistics.intervals import MIN_PROMPTS

AT_ONCE = 1 << 22  # bootstrap counts in memory at once: 32 MB


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval; `n` counts paired clips, `prompts` their clusters.

    `low` and `high` are None with too few prompts for an interval (components/statistics/intervals.py)."""

    value: float
    low: float | None
    high: float | None
    n: int
    prompts: int

    def as_json(self) -> dict:
        """The estimate as in a metrics file."""
        return intervals.as_json(self.value, self.low, self.high, self.n, self.prompts)

    def above(self, null: float) -> bool:
        """Whether the whole interval lies above `null`; False without an interval."""
        return self.low is not None and self.low > null

    def below(self, null: float) -> bool:
        """Whether the whole interval lies below `null`; False without an interval."""
        return self.high is not None and self.high < null


def points(method: np.ndarray, base: np.ndarray, tie_width: float = 1e-9) -> np.ndarray:
    """Points of the method in each pair: 1 for a win, 0 for a loss, one half for a tie.

    Args:
        method: scores of the method's clips, any shape, any unit.
        base: scores of the base generator's clips on the same prompts and seeds, same shape.
        tie_width: differences up to this size, in the scores' unit, are ties.

    Returns:
        float64 of the same shape.

    Raises:
        ValueError: the shapes differ, or a score is not finite (a failure is never a score).
    """
    difference = _difference(method, base)
    return np.where(np.abs(difference) <= tie_width, 0.5, (difference > 0).astype(np.float64))


def bootstrap_means(values: np.ndarray, prompts: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means of `values` over bootstrap resamples of whole prompts.

    Args:
        values: [N, K] one row per clip (or pair of clips), one column per quantity; the columns share the resamples.
        prompts: [N] the prompt of each row, any sortable type.
        resamples: R, the number of resamples.

    Returns:
        [R, K] the mean of each column in each resample; prompts with more rows have more weight, as in the plain mean.
    """
    names, cluster = np.unique(prompts, return_inverse=True)
    count = len(names)
    sizes = np.bincount(cluster, minlength=count).astype(np.float64)
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, cluster, values)
    # The counts of drawn prompts are multinomial: one matrix product replaces R passes over the rows.
    step = max(1, AT_ONCE // count)
    means = []
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        draws = rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)  # [size, P]
        means.append((draws @ sums) / (draws @ sizes)[:, None])
    return np.concatenate(means)


def interval_levels(clusters: int, confidence: float = 0.95) -> tuple[float, float]:
    """Lower and upper quantile of the expanded percentile interval for a mean over `clusters` prompts."""
    t = stats.t.ppf((1 - confidence) / 2, clusters - 1)
    low = float(stats.norm.cdf(np.sqrt(clusters / (clusters - 1)) * t))
    return low, 1 - low


def mean_interval(values: np.ndarray, prompts: np.ndarray, resamples: int, rng: np.random.Generator) -> Interval:
    """Mean of `values` [N] with its 95% interval over prompts [N]; no interval over fewer than MIN_PROMPTS of them.

    Raises:
        ValueError: no values, lists of different lengths, or a value is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    prompts = np.asarray(prompts)
    if values.ndim != 1 or values.shape != prompts.shape or not len(values):
        raise ValueError(f"values {values.shape} and prompts {prompts.shape} must have the same length, not empty")
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    clusters = len(np.unique(prompts))
    if clusters < MIN_PROMPTS:
        return Interval(float(values.mean()), None, None, len(values), clusters)
    means = bootstrap_means(values[:, None], prompts, resamples, rng)[:, 0]
    low, high = np.quantile(means, interval_levels(clusters))
    return Interval(float(values.mean()), float(low), float(high), len(values), clusters)


def win_rate(
    method: np.ndarray,
    base: np.ndarray,
    prompts: np.ndarray,
    tie_width: float = 1e-9,
    resamples: int = 2000,
    rng: np.random.Generator | None = None,
) -> Interval:
    """Share of pairs that the method wins against base, a tie counting one half, with its 95% interval.

    Args:
        method: [N] scores of the method's clips.
        base: [N] scores of the base generator's clips on the same (prompt, seed).
        prompts: [N] the prompt of each pair.
        tie_width: differences up to this size are ties.
        resamples: bootstrap resamples.
        rng: of the resamples; seed 0 by default.

    Raises:
        ValueError: shapes differ, there are no scores, or one is not finite.
    """
    return mean_interval(points(method, base, tie_width), prompts, resamples, rng or np.random.default_rng(0))


def mean_difference(
    method: np.ndarray,
    base: np.ndarray,
    prompts: np.ndarray,
    resamples: int = 2000,
    rng: np.random.Generator | None = None,
) -> Interval:
    """Mean of method minus base over pairs, in the scores' unit, with its 95% interval; arguments as in `win_rate`."""
    return mean_interval(_difference(method, base), prompts, resamples, rng or np.random.default_rng(0))


def slope_interval(
    x: np.ndarray, y: np.ndarray, prompts: np.ndarray, resamples: int, rng: np.random.Generator
) -> Interval | None:
    """Least-squares slope of y [N] on x [N], in units of y per unit of x, with its 95% interval over prompts [N].

    The slope is an association, which may be confounded by the prompt. None where x does not vary, or varies in so few
    prompts that a bound of the interval falls on resamples without variation. None also over fewer than MIN_PROMPTS prompts,
    as an association without an interval is meaningless.
    """
    if len(np.unique(prompts)) < MIN_PROMPTS:
        return None
    x, y = (np.asarray(column, dtype=np.float64) - np.mean(column) for column in (x, y))
    if not x.any():
        return None
    means = bootstrap_means(np.stack([x, y, x * x, x * y], axis=1), np.asarray(prompts), resamples, rng)
    mean_x, mean_y, squares, products = means.T
    spread = squares - mean_x**2
    flat = spread <= 1e-9 * (x * x).mean()  # all resampled prompts have the same x: such a resample gives no bound
    slopes = (products - mean_x * mean_y) / np.where(flat, 1.0, spread)
    levels = interval_levels(len(np.unique(prompts)))
    low, high = (
        np.quantile(np.where(flat, end, slopes), level, method="inverted_cdf")
        for end, level in zip((-np.inf, np.inf), levels, strict=True)
    )
    if not np.isfinite([low, high]).all():
        return None
    return Interval(float((x * y).sum() / (x * x).sum()), float(low), float(high), len(x), len(np.unique(prompts)))


def _difference(method: np.ndarray, base: np.ndarray) -> np.ndarray:
    method, base = np.asarray(method, dtype=np.float64), np.asarray(base, dtype=np.float64)
    if method.shape != base.shape:
        raise ValueError(f"scores of method {method.shape} and base {base.shape} are not paired")
    if not (np.isfinite(method).all() and np.isfinite(base).all()):
        raise ValueError("a score is not finite")
    return method - base
