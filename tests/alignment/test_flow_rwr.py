"""Flow-RWR's weights."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.alignment.flow_rwr import flow_rwr_loss, reward_weights
from components.params import RwrParams, load_params

rewards = st.lists(st.floats(-50, 50), min_size=2, max_size=40).map(np.array)


def params(temperature: float = 1.0, clip: float = 5.0) -> RwrParams:
    return load_params().align.rwr.model_copy(update={"temperature": temperature, "clip": clip})


@given(rewards, st.floats(0.1, 10), st.floats(1, 100))
def test_weights_have_mean_one_and_follow_the_reward(r, temperature, clip):
    weights = reward_weights(r, params(temperature, clip))
    assert np.isclose(weights.mean(), 1) and (weights >= 0).all()
    assert (np.diff(weights[np.argsort(r, kind="stable")]) >= -1e-12).all()


@given(rewards, st.floats(-100, 100))
def test_only_differences_of_rewards_count(r, shift):
    np.testing.assert_allclose(reward_weights(r, params()), reward_weights(r + shift, params()), rtol=1e-6, atol=1e-9)


def test_they_are_exponential_below_the_clip():
    weights = reward_weights(np.array([0.0, 1.0]), params(temperature=0.5))
    assert np.isclose(weights[1] / weights[0], np.exp(2))


def test_the_loss_is_the_weighted_mean():
    assert float(flow_rwr_loss(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 1.5]))) == 2.5
