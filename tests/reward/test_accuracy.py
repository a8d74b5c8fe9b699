"""Accuracy with and without ties: against the reference's figures, and against trying every threshold by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from components.statistics import accuracy as accuracy_module
from components.statistics.accuracy import fit_tie_threshold, resampled_shares, share, tie_baselines, with_ties, without_ties

REFERENCE = Path(__file__).parent / "reference"  # made by running the published code (MIT, licence beside it)


def rng():
    return np.random.default_rng(0)


def test_reference_figures():
    arrays = np.load(REFERENCE / "accuracy_inputs.npz")
    for case in json.loads((REFERENCE / "accuracies.json").read_text())["cases"]:
        labels, differences = arrays[f"h_{case['case']}"], arrays[f"m_{case['case']}"]
        prompts = np.arange(len(labels))
        assert without_ties(labels, differences, prompts, rng(), 10).value == pytest.approx(case["without_ties"], abs=1e-15)
        _, accuracy = fit_tie_threshold(labels, differences)
        assert fit_tie_threshold(labels, differences, "reference")[1] == pytest.approx(case["with_ties"], abs=1e-15)
        # The reference never tries "no ties", and the smallest threshold that it does try ties one pair.
        assert case["with_ties"] <= accuracy <= case["with_ties"] + 1 / len(labels) + 1e-12


def test_the_references_quirks_are_followed_where_asked():
    for quirk in json.loads((REFERENCE / "accuracies.json").read_text())["quirks"]:
        labels, differences = np.array(quirk["h"]), np.array(quirk["m"])
        if len(labels):
            assert fit_tie_threshold(labels, differences, "reference")[1] == pytest.approx(quirk["with_ties"], abs=1e-15)
        else:
            with pytest.raises(ValueError, match="no labelled pairs"):
                fit_tie_threshold(labels, differences, "reference")


def test_the_references_quirks_are_not_followed():
    assert fit_tie_threshold(np.array([1, -1, 1, -1]), np.array([1.0, -2.0, 3.0, -4.0])) == (0.0, 1.0)
    for order in ([0, 1, 2, 3], [1, 2, 0, 3]):  # equal differences: the order of the rows does not matter
        labels, differences = np.array([1, 0, 0, 1])[order], np.array([0.5, 0.5, -0.5, 2.0])[order]
        assert fit_tie_threshold(labels, differences) == (0.5, 0.75)


anything = st.sampled_from([-1, 0, 1]), st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])
decided, unequal = st.sampled_from([-1, 1]), st.floats(-3, 3)
CASES = {
    "anything": st.lists(st.tuples(*anything), min_size=1),
    "all ties": st.lists(st.tuples(st.just(0), unequal), min_size=1),
    "no ties": st.lists(st.tuples(decided, unequal), min_size=1),
    "all differences equal": st.tuples(unequal, st.lists(anything[0], min_size=1)).map(lambda c: [(h, c[0]) for h in c[1]]),
    "equal but for their sign": st.lists(st.tuples(anything[0], st.sampled_from([-0.7, 0.7])), min_size=1),
    "all differences zero": st.lists(st.tuples(anything[0], st.just(0.0)), min_size=1),
    "no two equal": st.lists(st.tuples(anything[0], unequal), min_size=1, unique_by=lambda row: abs(row[1])),
    "one pair": st.lists(st.tuples(anything[0], unequal), min_size=1, max_size=1),
}


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
def test_accuracy_with_ties_is_that_of_counting_by_hand(case, data):
    """Every threshold that can matter, each pair judged by itself: below all differences, at each, and above all."""
    rows = data.draw(CASES[case])
    labels, differences = map(np.array, zip(*rows, strict=True))

    def right(label: int, difference: float, threshold: float) -> bool:
        if difference == 0 or abs(difference) <= threshold:
            return label == 0
        return label == (1 if difference > 0 else -1)

    def accuracy(threshold: float) -> float:
        return sum(right(*row, threshold) for row in rows) / len(rows)

    tried = [0.0, *(abs(difference) for _, difference in rows), 99.0]
    threshold, found = fit_tie_threshold(labels, differences)
    assert found == max(map(accuracy, tried)) == accuracy(threshold)
    assert threshold == min(t for t in tried if accuracy(t) == found)  # of equally good ones the smallest
    assert with_ties(labels, differences, np.arange(len(rows)), threshold, rng(), 10).value == pytest.approx(found)
    sure = [row for row in rows if row[0] != 0]
    alone = without_ties(labels, differences, np.arange(len(rows)), rng(), 10).value
    assert alone == (pytest.approx(sum(right(*row, 0.0) for row in sure) / len(sure)) if sure else None)


def test_a_difference_of_zero_is_wrong_without_ties():
    labels, differences = np.array([1, -1, 0]), np.array([0.0, -1.0, 0.0])
    assert without_ties(labels, differences, np.arange(3), rng(), 10).value == 0.5


def test_interval_is_over_prompts():
    hits = np.repeat([True, False], 50)
    by_prompt = share(hits, np.repeat(np.arange(10), 10), rng(), 2000)
    by_pair = share(hits, np.arange(100), rng(), 2000)
    assert by_prompt.ci95[0] < 0.25  # ten prompts only, whatever the number of pairs
    assert by_pair.ci95[0] == pytest.approx(0.4, abs=0.02)
    assert by_pair.value == by_prompt.value == 0.5


@pytest.mark.parametrize("prompts", [1, 4])
def test_few_prompts_have_an_accuracy_and_no_interval(prompts):
    found = without_ties(np.tile([1, -1], 6), np.ones(12), np.arange(12) % prompts, rng(), 200)
    assert found.as_json() == {"value": 0.5, "ci95": None, "n": 12, "prompts": prompts}


def test_nothing_labelled_gives_no_number():
    none = np.array([], int)
    assert with_ties(none, none, none, 0.1, rng(), 10).as_json() == {"value": None, "ci95": None, "n": 0}
    assert without_ties(np.array([0, 0]), np.ones(2), np.arange(2), rng(), 10).value is None
    assert tie_baselines(none) == {"always_tie": None, "random": None}
    with pytest.raises(ValueError):
        fit_tie_threshold(none, none)


def test_random_baseline_is_what_random_scores_reach():
    for tied in (0.1, 0.6):
        labels = np.where(rng().random(20000) < tied, 0, rng().choice([-1, 1], 20000))
        _, accuracy = fit_tie_threshold(labels, np.random.default_rng(1).normal(size=20000))
        assert accuracy == pytest.approx(tie_baselines(labels)["random"], abs=0.01)


@pytest.mark.parametrize("at_once", [1, 1000, 1 << 30])
def test_draws_in_parts_are_those_of_one_piece(at_once, monkeypatch):
    """And those are what they always were: the same seed, the same interval."""
    monkeypatch.setattr(accuracy_module, "AT_ONCE", at_once)
    pairs = np.random.default_rng(1).integers(1, 9, 300)
    right = np.random.default_rng(2).integers(0, pairs + 1).astype(float)
    draws = rng().multinomial(300, np.full(300, 1 / 300), size=200)
    assert np.array_equal(resampled_shares(right, pairs, rng(), 200), (draws @ right) / (draws @ pairs))


def test_many_prompts_are_drawn_by_kind_with_the_same_spread(monkeypatch):
    pairs = np.random.default_rng(1).integers(1, 4, 4000)
    right = np.random.default_rng(2).integers(0, pairs + 1).astype(float)
    each = resampled_shares(right, pairs, rng(), 4000)
    monkeypatch.setattr(accuracy_module, "MANY_PROMPTS", 100)
    by_kind = resampled_shares(right, pairs, rng(), 4000)
    assert by_kind.mean() == pytest.approx(each.mean(), abs=5e-4) and by_kind.std() == pytest.approx(each.std(), rel=0.06)
    assert stats.ks_2samp(each, by_kind).pvalue > 1e-3
