"""Effects over seeds and prompts, tests of a claim's parts, Holm's correction over claims, verdicts, and power.

A part of a claim has a value for each seed and prompt, [S, P]: seeds of training and noise, and prompts, are both samples.
The model is `value = effect + seed + prompt + rest`, all random, and `effect` is estimated (analysis of variance of a
crossed design; degrees of freedom by Satterthwaite 1946).

Three seeds show little of how far seeds differ. So the variance between seeds is moderated (Smyth 2004, "Linear Models and
Empirical Bayes Methods"): the usual one of earlier benchmarks here counts as PRIOR_SEEDS further seeds. There, over 19 win
rates of three seeds and 240 clips each, seeds differ by 0.016 beyond the noise of clips, whose deviation is 0.48.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from components.statistics.significance import holm

LEVEL = 0.025  # one-sided, of both families: 5% for a wrong verdict over all claims
FOUND = 0.8  # power
PRIOR_SEEDS, PRIOR_RATIO = 10, 0.04  # deviation between seeds over that of the rest; a little above 0.016 / 0.48
HOLDS, REFUTED, UNTOLD, NOT_RUN = "holds", "does not hold", "cannot be decided at this size", "not run yet"
Kind = Literal["above", "within"]


@dataclass(frozen=True)
class Part:
    """One effect that a claim is about. above: it is above 0; refuted where it is surely below `margin`. within: its size is
    below `margin`; refuted where it is surely larger. `margin` is the smallest effect that would matter, `spread` the
    standard deviation of a prompt's value that the power before the run assumes."""

    name: str
    margin: float
    kind: Kind = "above"
    spread: float = 0.5


@dataclass(frozen=True)
class Effect:
    """Mean with standard error, degrees of freedom and 95% interval; deviations between seeds, between prompts and of the
    rest; the mean of each seed."""

    value: float
    error: float
    freedom: float
    low: float
    high: float
    seeds: int
    prompts: int
    between_seeds: float
    between_prompts: float
    rest: float
    each_seed: list[float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def crossed(values: np.ndarray) -> Effect:
    """The effect of values [S, P]; ValueError for fewer than two seeds or five prompts, and one that is not finite."""
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < 5 or not np.isfinite(values).all():
        raise ValueError(f"values {values.shape}: two seeds and five prompts at least, all finite")
    (mean,), (error,), (freedom,), parts = _moments(values[None])
    seeds, prompts = values.shape
    width = stats.t.ppf(0.975, freedom) * error if error else 0.0
    by_seed, by_prompt, rest = (float(part[0]) for part in parts)
    return Effect(
        value=float(mean),
        error=float(error),
        freedom=float(freedom),
        low=float(mean - width),
        high=float(mean + width),
        seeds=seeds,
        prompts=prompts,
        between_seeds=float(np.sqrt(max(by_seed - rest, 0.0) / prompts)),
        between_prompts=float(np.sqrt(max(by_prompt - rest, 0.0) / seeds)),
        rest=float(np.sqrt(rest)),
        each_seed=values.mean(1).tolist(),
    )


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Means, standard errors, degrees of freedom [N] and mean squares (seeds, prompts, rest) of values [N, S, P]."""
    _, seeds, prompts = values.shape
    mean = values.mean((1, 2))
    own, each = values.mean(2), values.mean(1)  # [N, S], [N, P]
    left = values - own[:, :, None] - each[:, None] + mean[:, None, None]
    by_seed, by_prompt = prompts * own.var(1, ddof=1), seeds * each.var(1, ddof=1)
    rest = (left**2).sum((1, 2)) / ((seeds - 1) * (prompts - 1))
    usual, known = rest * (1 + prompts * PRIOR_RATIO**2), PRIOR_SEEDS + seeds - 1
    moderate = np.maximum((PRIOR_SEEDS * usual + (seeds - 1) * by_seed) / known, rest)
    widest = np.maximum(by_prompt, rest)  # one below that of the rest is chance, and would make the error too small
    total = moderate - rest + widest
    spread = moderate**2 / known + widest**2 / (prompts - 1) + rest**2 / ((seeds - 1) * (prompts - 1))
    freedom = np.where(spread > 0, total**2 / np.where(spread > 0, spread, 1.0), prompts - 1)
    return mean, np.sqrt(total / (seeds * prompts)), freedom, (by_seed, by_prompt, rest)


def beyond(effect: Effect, null: float, above: bool = True) -> float:
    """One-sided p-value of "the effect is at most `null`", or with above False "at least"."""
    distance = effect.value - null if above else null - effect.value
    if not effect.error:
        return 0.0 if distance > 0 else 1.0
    return float(stats.t.sf(distance / effect.error, effect.freedom))


def part_p(part: Part, effect: Effect) -> tuple[float, float]:
    """p-values that speak for the part, and against it."""
    if part.kind == "above":
        return beyond(effect, 0.0), beyond(effect, part.margin, above=False)
    inside = max(beyond(effect, -part.margin), beyond(effect, part.margin, above=False))
    return inside, min(1.0, 2 * min(beyond(effect, part.margin), beyond(effect, -part.margin, above=False)))


def claim_p(parts: Sequence[Part], effects: Mapping[str, Effect]) -> tuple[float, float]:
    """p-values for a claim, of which all parts must hold (the largest), and against it (Bonferroni's over its parts)."""
    pairs = [part_p(part, effects[part.name]) for part in parts]
    return max(own for own, _ in pairs), min(1.0, len(parts) * min(other for _, other in pairs))


def verdicts(pairs: Mapping[int, tuple[float, float]], claims: int) -> dict[int, tuple[str, float, float]]:
    """(verdict, corrected p for, corrected p against) by claim, from claim_p. `claims` is the number planned: those that
    have not run count as p-values of 1, so that later ones take nothing back.

    Of a claim's two null hypotheses, "no effect" and "an effect that matters", at most one is true. So two families of one
    test a claim, each at LEVEL, bound the chance of any wrong verdict by 2 LEVEL.
    """
    order, missing = list(pairs), [1.0] * (claims - len(pairs))
    for_it, against = (holm([*(pairs[number][side] for number in order), *missing]) for side in (0, 1))
    found = {}
    for place, number in enumerate(order):
        verdict = HOLDS if for_it[place] <= LEVEL else REFUTED if against[place] <= LEVEL else UNTOLD
        found[number] = verdict, for_it[place], against[place]
    return found


def smallest_effect(
    seeds: int, prompts: int, deviations: tuple[float, float, float], level: float, rounds: int = 2000, seed: int = 0
) -> float:
    """The effect above 0 that a design finds with probability FOUND, by simulation. deviations: between seeds, between
    prompts, of the rest. A shift of all values changes the mean alone, so one simulation serves all effects."""
    rng = np.random.default_rng(seed)
    by_seed, by_prompt, rest = deviations
    needed = []
    for size in np.full(-(-rounds // 200), 200):
        values = by_seed * rng.standard_normal((size, seeds, 1)) + by_prompt * rng.standard_normal((size, 1, prompts))
        mean, error, freedom, _ = _moments(values + rest * rng.standard_normal((size, seeds, prompts)))
        needed.append(stats.t.isf(level, freedom) * error - mean)
    return float(np.quantile(np.concatenate(needed), FOUND))
