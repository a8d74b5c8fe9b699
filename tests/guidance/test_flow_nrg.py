"""Flow-NRG against flows and rewards whose answer is known, and the latent reward model's contract."""

import pytest
import torch
from torch import nn

from components.errors import BadInput, NonFinite
from components.generator.sampler import euler, noise_of, timesteps
from components.generator.wan import velocity
from components.guidance.flow_nrg import flow_nrg
from components.guidance.latent_reward import (
    LatentReward,
    bradley_terry,
    first_blocks,
    load_latent_reward,
    save_latent_reward,
    trunk_tokens,
)
from components.params import NrgParams
from tests.generator.small import tiny_generator

S0 = 0.5  # standard deviation of the toy data


def params(**change) -> NrgParams:
    return NrgParams(**{"weights": {"up": 1.0}, "scale": 2.0, "start": 0.0, "stop": 1.0, "max_norm": None} | change)


def toy_flow(x: torch.Tensor, t: float) -> torch.Tensor:
    """The exact velocity of x_t = (1 - t) x0 + t x1 with x0 ~ N(0, S0^2), x1 ~ N(0, 1)."""
    variance = (1 - t) ** 2 * S0**2 + t**2
    return x * (t - (1 - t) * S0**2) / variance


class ToyReward(nn.Module):
    """r(x0) = x0, seen through noise: log E[exp(w x0) | x_t] / w, up to a constant, is E[x0 | x_t]."""

    dimensions = ("up", "down")

    def forward(self, x, t, text):
        t = t.view(-1, 1, 1, 1, 1)
        mean = x * (1 - t) * S0**2 / ((1 - t) ** 2 * S0**2 + t**2)
        return torch.stack([mean.flatten(1).sum(1), -mean.flatten(1).sum(1)], dim=1)


NOISE = torch.randn(20000, 1, 1, 1, 1, generator=torch.Generator().manual_seed(0))


def test_samples_follow_the_tilted_distribution():
    """p(x) exp(w x) for p = N(0, S0^2) is N(w S0^2, S0^2)."""
    w = 2.0
    guided = flow_nrg(toy_flow, ToyReward(), NOISE, params(scale=w))
    x = euler(guided, NOISE, timesteps(400, 1.0))
    assert float(x.mean()) == pytest.approx(w * S0**2, abs=0.02)
    assert float(x.std()) == pytest.approx(S0, abs=0.02)


def test_zero_weights_change_no_bit():
    guided = flow_nrg(toy_flow, ToyReward(), NOISE, params(weights={"up": 0.0}))
    assert torch.equal(euler(guided, NOISE, timesteps(10, 3.0)), euler(toy_flow, NOISE, timesteps(10, 3.0)))


def test_weights_choose_the_dimension_and_the_interval_is_kept():
    x = NOISE[:4]
    down = flow_nrg(toy_flow, ToyReward(), x, params(weights={"down": 1.0}))
    assert (down(x, 0.5) > toy_flow(x, 0.5)).all(), "velocity points to noise: more of it moves the clip down"
    early = flow_nrg(toy_flow, ToyReward(), x, params(start=0.6))
    assert torch.equal(early(x, 0.5), toy_flow(x, 0.5)) and not torch.equal(early(x, 0.7), toy_flow(x, 0.7))
    assert torch.equal(early(x, 1.0), toy_flow(x, 1.0)), "t = 1 is skipped"


def test_the_push_is_bounded_by_the_velocity():
    x = NOISE[:4]
    bounded = flow_nrg(toy_flow, ToyReward(), x, params(scale=1e6, max_norm=0.5))
    push = (bounded(x, 0.9) - toy_flow(x, 0.9)).abs()
    torch.testing.assert_close(push, 0.5 * toy_flow(x, 0.9).abs())


def test_an_unknown_dimension_and_a_bad_gradient_are_named():
    with pytest.raises(BadInput, match=r"weights\.XY"):
        flow_nrg(toy_flow, ToyReward(), NOISE, params(weights={"XY": 1.0}))

    class Broken(ToyReward):
        def forward(self, x, t, text):
            return super().forward(x, t, text) * float("nan")

    with pytest.raises(NonFinite, match="reward gradient"):
        flow_nrg(toy_flow, Broken(), NOISE, params())(NOISE[:2], 0.5)


def test_the_trunk_computes_what_the_generator_computes():
    transformer = tiny_generator().transformer
    x, t, text = torch.randn(2, 4, 3, 4, 4), torch.tensor([0.3, 0.8]), torch.randn(2, 16, 16)
    seen = []
    transformer.blocks[0].register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        velocity(transformer, x, t, text)
        torch.testing.assert_close(trunk_tokens(first_blocks(transformer, 1), x, t, text), seen[0])
    with pytest.raises(BadInput, match="2 blocks"):
        first_blocks(transformer, 3)


def test_saved_and_loaded_for_its_own_generator_only(tmp_path):
    transformer = tiny_generator().transformer
    model = LatentReward(first_blocks(transformer, 1), ["VQ", "TA"])
    nn.init.normal_(model.head)
    save_latent_reward(model, tmp_path, {"generator": "abc", "reward_model": "r"})
    x, t, text = torch.randn(2, 4, 3, 4, 4), torch.tensor([0.3, 0.8]), torch.randn(2, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(load_latent_reward(tmp_path, transformer, "abc")(x, t, text), model(x, t, text))
    with pytest.raises(BadInput, match="trained for generator abc"):
        load_latent_reward(tmp_path, transformer, "xyz")


def test_bradley_terry_counts_decided_entries_only():
    a, b = torch.tensor([[1.0, 5.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [3.0, 0.0]])
    labels = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    expected = (torch.nn.functional.softplus(torch.tensor(-1.0)) + torch.nn.functional.softplus(torch.tensor(-3.0))) / 2
    torch.testing.assert_close(bradley_terry(a, b, labels), expected)
    assert noise_of(3, (2,)).tolist() == noise_of(3, (2,)).tolist()
