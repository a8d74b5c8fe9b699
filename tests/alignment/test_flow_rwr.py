"""Flow-RWR's weights by name, and its loss and SFT's against a plain re-derivation in float64."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.alignment.flow import squared_errors
from components.alignment.methods.flow_rwr import flow_rwr_loss, reward_weights
from components.alignment.methods.sft import sft_loss
from components.config.params import RwrParams, load_params

rewards = st.lists(st.floats(-50, 50), min_size=2, max_size=40).map(np.array)


@cache
def plain() -> RwrParams:
    return load_params().align.rwr


def params(**change) -> RwrParams:
    return plain().model_copy(update=change)


def weights_of(r: np.ndarray, prompts: np.ndarray | None = None, **change) -> np.ndarray:
    return reward_weights(r, np.zeros(len(r)) if prompts is None else prompts, params(**change))


@given(rewards, st.floats(0.1, 10), st.floats(1, 100) | st.none())
def test_weights_have_mean_one_and_follow_the_reward(r, temperature, clip):
    weights = weights_of(r, weighting="mean_one", temperature=temperature, clip=clip)
    assert np.isclose(weights.mean(), 1) and (weights >= 0).all()
    assert (np.diff(weights[np.argsort(r, kind="stable")]) >= -1e-12).all()


@given(rewards, st.floats(-100, 100))
def test_only_differences_of_rewards_count(r, shift):
    np.testing.assert_allclose(
        weights_of(r, weighting="mean_one"), weights_of(r + shift, weighting="mean_one"), rtol=1e-6, atol=1e-9
    )


def test_they_are_exponential_below_the_clip():
    weights = weights_of(np.array([0.0, 1.0]), weighting="mean_one", temperature=0.5, clip=None)
    assert np.isclose(weights[1] / weights[0], np.exp(2))


@given(rewards, st.data())
def test_a_prompt_weighs_as_much_as_it_has_clips(r, data):
    prompts = np.array(data.draw(st.lists(st.sampled_from("abc"), min_size=len(r), max_size=len(r))))
    weights = weights_of(r, prompts, weighting="per_prompt", clip=None)
    for prompt in np.unique(prompts):
        own = prompts == prompt
        assert np.isclose(weights[own].sum(), own.sum())
        softmax = np.exp(r[own] - r[own].max()) / np.exp(r[own] - r[own].max()).sum()
        np.testing.assert_allclose(weights[own], softmax * own.sum(), rtol=1e-9)


def test_the_papers_weights_are_plain_exponentials():
    np.testing.assert_allclose(weights_of(np.array([-1.0, 0.0, 2.0]), weighting="exp", clip=None), np.exp([-1, 0, 2]))
    assert weights_of(np.array([0.0, 9.0]), weighting="exp", clip=5.0).tolist() == [1.0, 5.0]


@pytest.mark.parametrize("seed", range(20))
def test_the_loss_is_the_formula(seed):
    rng = np.random.default_rng(seed)
    target, predicted = rng.standard_normal((2, 6, 4, 3, 2, 2))
    r = rng.standard_normal(6)
    errors = squared_errors(torch.from_numpy(target), torch.from_numpy(predicted), "mean")
    each = [np.mean((target[i] - predicted[i]) ** 2) for i in range(6)]
    for weighting in ("exp", "mean_one", "per_prompt"):
        weights = weights_of(r, np.array([0, 0, 1, 1, 1, 2]), weighting=weighting, clip=None)
        loss = flow_rwr_loss(errors, torch.from_numpy(weights))
        plain = sum(w * e for w, e in zip(weights, each, strict=True)) / 6
        assert float(loss) == pytest.approx(plain, abs=1e-10, rel=1e-10)
    assert float(sft_loss(errors)) == pytest.approx(sum(each) / 6, abs=1e-10, rel=1e-10)
