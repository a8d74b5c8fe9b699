import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluation.win_rates import (
    bootstrap_means,
    mean_difference,
    mean_interval,
    points,
    slope_interval,
    win_rate,
)
from components.statistics.intervals import MIN_PROMPTS

# Few distinct values, so that ties are common; prompts enough for an interval.
score = st.integers(-3, 3).map(float)
pairs = st.tuples(
    st.lists(st.tuples(score, score), min_size=MIN_PROMPTS, max_size=MIN_PROMPTS).map(
        lambda rows: [(*row, prompt) for prompt, row in enumerate(rows)]
    ),
    st.lists(st.tuples(score, score, st.integers(0, MIN_PROMPTS)), max_size=25),
).map(lambda parts: parts[0] + parts[1])


def columns(rows):
    method, base, prompts = (np.array(column) for column in zip(*rows, strict=True))
    return method, base, prompts


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_rates_of_the_two_sides_sum_to_one(rows):
    method, base, prompts = columns(rows)
    ours = win_rate(method, base, prompts, resamples=50)
    theirs = win_rate(base, method, prompts, resamples=50)
    assert ours.value + theirs.value == pytest.approx(1)
    assert ours.low + theirs.high == pytest.approx(1)


@settings(max_examples=60, deadline=None)
@given(pairs, st.floats(0, 3))
def test_better_scores_never_lower_the_rate(rows, gain):
    method, base, prompts = columns(rows)
    before = win_rate(method, base, prompts, resamples=50)
    after = win_rate(method + gain, base, prompts, resamples=50)
    assert after.value >= before.value
    assert after.low >= before.low and after.high >= before.high


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_the_interval_is_ordered_and_a_share(rows):
    rate = win_rate(*columns(rows), resamples=50)
    assert 0 <= rate.low <= rate.high <= 1
    assert rate.n == len(rows)


def test_all_ties_are_one_half():
    rate = win_rate(np.ones(8), np.ones(8), np.arange(8))
    assert (rate.value, rate.low, rate.high) == (0.5, 0.5, 0.5)


def test_a_tie_is_a_difference_up_to_the_width():
    assert points([1.0, 1.5, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0], tie_width=0.5).tolist() == [0.5, 0.5, 1.0, 0.0]


def test_mean_difference_is_in_the_unit_of_the_scores():
    difference = mean_difference(np.array([3.0, 5.0] * 5), np.ones(10), np.repeat(np.arange(5), 2))
    assert difference.value == 3.0
    assert difference.low == difference.high == 3.0  # all prompts have the same mean: seeds within one do not count


def test_prompts_are_resampled_whole():
    """Many seeds of few prompts must not look like many independent observations."""
    rng = np.random.default_rng(1)
    per_prompt = np.repeat(rng.normal(size=10), 50)
    clustered = mean_interval(per_prompt, np.repeat(np.arange(10), 50), 500, np.random.default_rng(0))
    independent = mean_interval(per_prompt, np.arange(500), 500, np.random.default_rng(0))
    assert clustered.high - clustered.low > 4 * (independent.high - independent.low)


def test_bootstrap_means_equal_a_plain_loop():
    rng = np.random.default_rng(3)
    values, prompts = rng.normal(size=(7, 2)), np.array(list("aabbbcc"))
    fast = bootstrap_means(values, prompts, 20, np.random.default_rng(5))
    draws = np.random.default_rng(5).multinomial(3, np.full(3, 1 / 3), size=20)
    for row, draw in zip(fast, draws, strict=True):
        chosen = [values[prompts == name] for name, times in zip("abc", draw, strict=True) for _ in range(times)]
        assert row == pytest.approx(np.concatenate(chosen).mean(axis=0))


@pytest.mark.parametrize(
    ("prompts", "seeds", "difficulty", "tied"),
    [
        (40, 2, (6, 4), 0.2),
        (60, 4, (1.4, 0.6), 0.1),  # most prompts are won, or lost, with all their seeds
        (120, 2, (5, 5), 0.4),
    ],
)
def test_intervals_cover_the_known_win_rate(prompts, seeds, difficulty, tied):
    """500 experiments: prompts of unlike difficulty (a beta distribution), some pairs tied; 95% intervals cover the win rate
    that the experiments were drawn with 93% to 97% of the time."""
    rng = np.random.default_rng(11)
    known = (1 - tied) * difficulty[0] / sum(difficulty) + tied / 2
    covered = 0
    for _ in range(500):
        chance = rng.beta(*difficulty, size=prompts)
        outcome = (rng.random((prompts, seeds)) < chance[:, None]).astype(float)
        outcome[rng.random((prompts, seeds)) < tied] = 0.5
        names = np.repeat(np.arange(prompts), seeds)
        rate = win_rate(outcome.ravel(), np.full(outcome.size, 0.5), names, resamples=500, rng=rng)
        covered += rate.low <= known <= rate.high
    print(f"{prompts} prompts x {seeds} seeds, win rate {known:.2f}: {covered / 500:.1%} covered")
    assert 0.93 <= covered / 500 <= 0.97


def test_a_slope_is_found_with_an_interval_that_covers_it():
    """200 experiments: y grows by 0.3 a unit of x, and prompts have levels of their own."""
    rng = np.random.default_rng(12)
    covered, prompts = 0, np.repeat(np.arange(40), 2)
    for _ in range(200):
        x = rng.integers(10, 20, 80)
        y = 100 + 0.3 * x + np.repeat(rng.normal(size=40), 2) + rng.normal(0, 0.5, 80)
        found = slope_interval(x, y, prompts, 300, rng)
        assert found.value == pytest.approx(np.polyfit(x, y, 1)[0])
        covered += found.low <= 0.3 <= found.high
    assert 0.91 <= covered / 200 <= 0.99


def test_there_is_no_slope_where_x_hardly_varies():
    y, prompts = np.random.default_rng(0).normal(size=12), np.repeat(np.arange(6), 2)
    assert slope_interval(np.full(12, 9), y, prompts, 300, np.random.default_rng(0)) is None
    one_prompt = np.where(prompts == 0, 12, 9)  # a third of the resamples lack it
    assert slope_interval(one_prompt, y, prompts, 300, np.random.default_rng(0)) is None
    assert slope_interval(y + 1, y, prompts // 2, 300, np.random.default_rng(0)) is None  # three prompts


@pytest.mark.parametrize("prompts", [1, 2, MIN_PROMPTS - 1])
def test_few_prompts_have_a_value_and_no_interval(prompts):
    """However many clips they have: an interval over one prompt has no width, and says that all is known."""
    names = np.arange(60) % prompts
    rate = win_rate(np.arange(60) % 3, np.ones(60), names)
    assert (rate.value, rate.low, rate.high) == (0.5, None, None)
    assert rate.as_json() == {"value": 0.5, "ci95": None, "n": 60, "prompts": prompts}
    assert not any((rate.above(0.0), rate.below(1.0)))
    assert win_rate(np.arange(60) % 3, np.ones(60), np.arange(60) % MIN_PROMPTS).low is not None


@pytest.mark.parametrize(
    ("method", "base", "prompts", "why"),
    [
        ([1.0, np.nan], [0.0, 0.0], [0, 1], "not finite"),
        ([1.0, 2.0], [0.0], [0, 1], "not paired"),
        ([], [], [], "not empty"),
        ([1.0, 2.0], [0.0, 0.0], [0, 1, 2], "the same length"),
    ],
)
def test_bad_input_is_named(method, base, prompts, why):
    with pytest.raises(ValueError, match=why):
        win_rate(np.array(method), np.array(base), np.array(prompts))
