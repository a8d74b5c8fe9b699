"""The paired test against all flips tried by hand, its size and power; Holm's correction against the closed test."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from components.statistics import significance
from components.statistics.significance import correct_family, holm, sign_flip_p

pairs = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 7)), min_size=1, max_size=20)


@settings(max_examples=80, deadline=None)
@given(pairs)
def test_the_p_value_is_the_share_of_all_flips_of_prompts(rows):
    points, prompts = map(np.array, zip(*rows, strict=True))
    lead = np.array([(points[prompts == name] - 0.5).sum() for name in np.unique(prompts)])
    flipped = [abs((lead * signs).sum()) for signs in itertools.product([1, -1], repeat=len(lead))]
    assert sign_flip_p(points, prompts) == pytest.approx(np.mean(np.array(flipped) >= abs(lead.sum())), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_it_does_not_matter_which_side_is_asked_about(rows):
    points, prompts = map(np.array, zip(*rows, strict=True))
    assert sign_flip_p(points, prompts) == sign_flip_p(1 - points, prompts)


def test_one_seed_a_prompt_is_the_sign_test():
    for wins, losses, ties in ((9, 1, 0), (6, 4, 5), (12, 5, 3), (400, 300, 20)):
        points = np.repeat([1.0, 0.0, 0.5], [wins, losses, ties])
        known = stats.binomtest(wins, wins + losses).pvalue
        assert sign_flip_p(points, np.arange(len(points))) == pytest.approx(known, rel=1e-9)


def test_ends_are_known():
    assert sign_flip_p(np.full(6, 0.5), np.arange(6)) == 1
    assert sign_flip_p(np.ones(6), np.zeros(6)) == 1  # one prompt proves nothing, however many seeds it has
    assert sign_flip_p(np.ones(20), np.repeat(np.arange(10), 2)) == 2 / 2**10
    with pytest.raises(ValueError, match="0, 1/2 or 1"):
        sign_flip_p(np.array([0.2]), np.array([0]))
    with pytest.raises(ValueError, match="the same length"):
        sign_flip_p(np.ones(2), np.zeros(3))


def experiment(rng, rate, prompts=60, seeds=2, tied=0.2, spread=8.0):
    """Points of pairs whose chance of a win differs by prompt, `rate` on average; a share of them tied."""
    chance = rng.beta(spread * rate, spread * (1 - rate), size=prompts)
    points = (rng.random((prompts, seeds)) < chance[:, None]).astype(float)
    points[rng.random((prompts, seeds)) < tied] = 0.5
    return points.ravel(), np.repeat(np.arange(prompts), seeds)


@pytest.mark.parametrize("setting", [dict(), dict(seeds=6, spread=1.0), dict(prompts=120, tied=0.5)])
def test_the_size_is_the_level(setting):
    """500 experiments without any difference, prompts of unlike difficulty: about 5% of them have p of at most 0.05. An
    exact test of a discrete figure may have less, never more."""
    rng = np.random.default_rng(5)
    called = sum(sign_flip_p(*experiment(rng, 0.5, **setting)) <= 0.05 for _ in range(500))
    low, high = stats.binom.ppf([0.005, 0.995], 500, [0.04, 0.05])  # lumps of the figure take up to a point of the level
    print(f"size {called / 500:.3f} {setting}")
    assert low <= called <= high


def test_pairs_taken_for_independent_would_be_called_too_often():
    rng = np.random.default_rng(5)
    called = 0
    for _ in range(100):
        points, _ = experiment(rng, 0.5, seeds=6, spread=1.0)
        called += sign_flip_p(points, np.arange(len(points))) <= 0.05
    assert called / 100 > 0.15


def test_a_difference_is_found():
    rng = np.random.default_rng(6)
    rates = (0.55, 0.65, 0.75)
    power = [float(np.mean([sign_flip_p(*experiment(rng, rate)) <= 0.05 for _ in range(500)])) for rate in rates]
    print(f"power at 55%, 65%, 75% of 60 prompts x 2 seeds: {power}")
    assert power[0] < power[1] < power[2] and power[1] > 0.7 and power[2] > 0.99


p_values = st.lists(
    st.sampled_from([0.0, 0.001, 0.01, 0.012, 0.02, 0.05, 0.3, 1.0]) | st.floats(0, 1), min_size=1, max_size=7
)


@settings(max_examples=100, deadline=None)
@given(p_values)
def test_holm_is_the_closed_test_of_bonferroni(values):
    """A hypothesis falls when every set that it is in falls by Bonferroni (Marcus, Peritz and Gabriel 1976)."""
    count = len(values)
    sets = [s for size in range(1, count + 1) for s in itertools.combinations(range(count), size)]
    closed = [max(min(1.0, len(s) * min(values[i] for i in s)) for s in sets if at in s) for at in range(count)]
    assert holm(values) == pytest.approx(closed)


@settings(max_examples=100, deadline=None)
@given(p_values, st.sampled_from([0.01, 0.05, 0.1]))
def test_holm_steps_down_as_its_author_does(values, level):
    called, left = set(), sorted(range(len(values)), key=lambda at: values[at])
    while left and values[left[0]] * len(left) <= level:
        called.add(left.pop(0))
    assert {at for at, corrected in enumerate(holm(values)) if corrected <= level} == called


def test_a_family_gets_its_own_figures_in_place():
    cells = [{"p": 0.04}, {"p": 0.01}]
    correct_family(cells)
    assert cells == [{"p": 0.04, "p_holm": 0.04}, {"p": 0.01, "p_holm": 0.02}]
    assert holm([]) == []


@pytest.mark.parametrize(("prompts", "expected"), [(1000, 2.0**-999), (1060, 2.0**-1059), (1200, 5e-324)])
def test_the_p_value_of_many_unanimous_prompts_is_tiny_and_never_0(prompts, expected):
    assert sign_flip_p(np.ones(prompts), np.arange(prompts)) == expected


@pytest.mark.parametrize("against", [1, 20, 300])
def test_whole_numbers_and_floating_ones_agree(against, monkeypatch):
    points = np.append(np.ones(400), np.zeros(against))
    prompts = np.append(np.repeat(np.arange(200), 2), 200 + np.arange(against))
    before = sign_flip_p(points, prompts)
    monkeypatch.setattr(significance, "ROUNDED", 1.0)
    assert sign_flip_p(points, prompts) == pytest.approx(before, rel=1e-12)
