"""The gate's arithmetic on made-up scores: what is better, equal and worse, and what a model must be by itself."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.config.params import load_params
from components.registry.gate import absolute_reasons, differences, gains, verdict_reasons
from components.reward.metrics import pair_metrics

PARAMS = load_params().promotion.model_copy(update={"contract_clips": 1, "resamples": 300})
QUESTIONS = ["VQ", "TA", "Overall"]
THRESHOLDS = dict.fromkeys(QUESTIONS, 0.5)
PROMPTS, PAIRS = 60, 4


def scored(noise: dict[str, float] | float, seed: int) -> pd.DataFrame:
    """Pairs whose true difference shows through noise of each dimension; the labels are the same for every seed."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"prompt": np.repeat([f"p{i}" for i in range(PROMPTS)], PAIRS)})
    table["model_A"], table["model_B"] = "one", "other"
    truth = {question: rng.normal(0, 2, len(table)) for question in QUESTIONS}
    own = np.random.default_rng(seed)
    for question, gap in truth.items():
        labels = np.where(np.abs(gap) < 0.4, 0, np.sign(gap)).astype(int)
        table[f"{question}_label"] = pd.Series(labels, dtype="Int64")
        width = noise[question] if isinstance(noise, dict) else noise
        table[f"{question}_score_A"] = gap + own.normal(0, width, len(table))
        table[f"{question}_score_B"] = 0.0
    return table


def verdict(challenger: pd.DataFrame, champion: pd.DataFrame) -> list[str]:
    cells = differences([(challenger, THRESHOLDS), (champion, THRESHOLDS)], QUESTIONS, PARAMS.resamples)
    return verdict_reasons(cells, 0.0, PARAMS.level)


def kinds(reasons: list[str]) -> set[str]:
    return {reason.split(":")[0] for reason in reasons}


def test_a_better_one_wins_a_worse_one_loses_and_the_same_gains_nothing():
    sharp, blunt = scored(0.3, seed=1), scored(3.0, seed=2)
    assert verdict(sharp, blunt) == []
    assert kinds(verdict(blunt, sharp)) == {"loss", "no_gain"}
    assert kinds(verdict(blunt, blunt.copy())) == {"no_gain"}


def test_equals_trained_twice_are_rarely_promoted():
    """Two models of one quality, 60 times: what looks like a gain is chance."""
    found = [verdict(scored(1.0, seed), scored(1.0, 1000 + seed)) for seed in range(60)]
    promoted = sum(not reasons for reasons in found)
    print(f"{promoted} of 60 equals are promoted")
    assert promoted <= 4


def test_a_gain_does_not_buy_a_loss():
    reasons = verdict(scored({"VQ": 0.2, "TA": 6.0, "Overall": 1.0}, 1), scored({"VQ": 3.0, "TA": 0.2, "Overall": 1.0}, 2))
    assert kinds(reasons) == {"loss"} and all("TA" in reason for reason in reasons)


def test_gains_are_named_with_their_figures():
    sides = [(scored(0.3, 1), THRESHOLDS), (scored(3.0, 2), THRESHOLDS)]
    cells = differences(sides, QUESTIONS, PARAMS.resamples)
    assert [gain.split()[0] for gain in gains(cells, 0.0, PARAMS.level)].count("VQ") == 2
    assert all(cell["p_holm"] >= cell["p"] for own in cells.values() for cell in own.values())


def test_without_labels_or_a_threshold_there_is_no_figure():
    one = scored(0.3, 1)
    one["TA_label"] = pd.Series([pd.NA] * len(one), dtype="Int64")
    cells = differences([(one, THRESHOLDS), (one, THRESHOLDS | {"VQ": None})], QUESTIONS, 50)
    assert set(cells["TA"].values()) == {None}
    assert cells["VQ"]["accuracy_with_ties"] is None and cells["VQ"]["accuracy_without_ties"]["value"] == 0


@given(st.permutations(range(PROMPTS * PAIRS)))
def test_the_order_of_pairs_changes_no_difference(order):
    sides = [scored(0.3, 1), scored(3.0, 2)]
    shuffled = [side.iloc[list(order)].reset_index(drop=True) for side in sides]
    plain, other = (
        differences([(side, THRESHOLDS) for side in pair], QUESTIONS, 20)["VQ"]["accuracy_with_ties"]
        for pair in (sides, shuffled)
    )
    assert plain["value"] == pytest.approx(other["value"]) and plain["p"] == pytest.approx(other["p"])


def absolute(table: pd.DataFrame, contracts=(), **params) -> list[str]:
    found = pair_metrics(table, QUESTIONS, THRESHOLDS, "validation", 200)
    return absolute_reasons(found, list(contracts), PARAMS.model_copy(update=params))


def test_a_model_must_be_good_enough_by_itself():
    good = scored(1.0, 1)
    assert absolute(good) == []
    assert kinds(absolute(scored(200.0, 1))) >= {"accuracy"}
    assert kinds(absolute(good, max_calibration_error=0.001)) == {"calibration"}
    broken = [{"name": "scored twice", "holds": False}, {"name": "blurred", "holds": None}]
    assert absolute(good, broken) == ["contract: scored twice"]


def test_few_prompts_decide_nothing():
    """However many pairs they have and however clear these are: neither a gain, nor a loss, nor an accuracy."""
    sharp, blunt = (side.assign(prompt="the only one") for side in (scored(0.1, 1), scored(3.0, 2)))
    cells = differences([(sharp, THRESHOLDS), (blunt, THRESHOLDS)], QUESTIONS, PARAMS.resamples)
    assert cells["VQ"]["accuracy_without_ties"]["value"] > 0.1 and cells["VQ"]["accuracy_without_ties"]["ci95"] is None
    assert gains(cells, 0.0, PARAMS.level) == [] and kinds(verdict_reasons(cells, 0.0, PARAMS.level)) == {"no_gain"}
    assert kinds(verdict(blunt, sharp)) == {"no_gain"}
    assert "(n=1 prompt: too few for an interval), not surely above 0.5" in absolute(sharp)[0]


def test_too_few_pairs_cannot_be_judged():
    few = scored(0.1, 1).iloc[:8]
    assert "calibration" in kinds(absolute(few))
    for question in QUESTIONS:
        few = few.assign(**{f"{question}_label": pd.Series([pd.NA] * 8, dtype="Int64")})
    assert absolute(few) == ["accuracy: no decided test pair"]
