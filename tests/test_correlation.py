"""Correlations of ratings and scores: against scipy, by hand within prompts, and intervals that cover."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from components.statistics.correlation import COEFFICIENTS, correlations

values = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4), st.integers(0, 2)), min_size=1, max_size=30)


def spread(x):
    return len(set(x.tolist())) > 1


@settings(max_examples=100)
@given(values)
def test_coefficients_are_scipys(rows):
    x, y, prompts = (np.array(column, float) for column in zip(*rows, strict=True))
    found = correlations(x, y, prompts, np.random.default_rng(0), 5)
    known = {"spearman": stats.spearmanr, "kendall": stats.kendalltau, "pearson": stats.pearsonr}
    for name, of in known.items():
        value = found["across"][name]["value"]
        assert value == (pytest.approx(of(x, y)[0], abs=1e-12) if spread(x) and spread(y) else None)
        own = []
        for prompt in set(prompts.tolist()):
            mine = prompts == prompt
            if spread(x[mine]):
                own.append(of(x[mine], y[mine])[0] if spread(y[mine]) else 0.0)
        within = found["within"][name]
        assert within["value"] == (pytest.approx(np.mean(own), abs=1e-12) if own else None)
        assert within["prompts"] == len(own) and within["ci95"] is None  # of three prompts


def test_prompts_that_differ_in_difficulty_correlate_across_and_not_within():
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(200), 4)
    ease = rng.normal(0, 2, 200)[prompts]
    found = correlations(ease + rng.normal(0, 1, 800), ease + rng.normal(0, 1, 800), prompts, rng, 200)
    for name in COEFFICIENTS:
        assert found["across"][name]["ci95"][0] > 0.5
        low, high = found["within"][name]["ci95"]
        assert low < 0 < high and high < 0.15


def test_intervals_cover_the_true_correlation():
    """Of normal pairs with shared difficulty of prompts, whose Pearson correlation across is known."""
    covered = {"across": 0, "within": 0}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        prompts = np.repeat(np.arange(40), 5)
        ease = rng.normal(0, 1, 40)[prompts]
        x, y = ease + rng.normal(0, 1, 200), ease + rng.normal(0, 1, 200)
        found = correlations(x, y, prompts, rng, 100)
        for kind, true in (("across", 0.5), ("within", 0.0)):
            low, high = found[kind]["pearson"]["ci95"]
            covered[kind] += low <= true <= high
    assert all(0.85 * 60 <= count <= 60 for count in covered.values()), covered
