"""PRFL: the gradient of one sampling step against differences, its bound, and that training raises the latent reward."""

from itertools import pairwise

import pytest
import torch

from components.config.params import load_params
from components.generator.sampler import ClassifierFree
from components.guidance.latent_reward import LatentReward, first_blocks
from components.online.prfl import one_step_with_gradient, prfl_loss, weighted
from tests.generator.small import conditioning, tiny_generator

PARAMS = load_params().online.prfl
TIMES = [1.0, 0.8, 0.5, 0.3]


class Linear(torch.nn.Module):
    """A velocity with one weight, in float64: w x t + the text's mean."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x, t, text):
        return self.w * x * t.view(-1, 1, 1, 1, 1) + text.tensors["text"].mean((1, 2)).view(-1, 1, 1, 1, 1)


def inputs():
    draw = torch.Generator().manual_seed(1)
    x1 = torch.randn(2, 1, 1, 2, 2, generator=draw, dtype=torch.float64)
    return x1, conditioning(2, 3, 4, dtype=torch.float64, draw=draw), conditioning(1, 3, 4, dtype=torch.float64, draw=draw)


def test_the_gradient_is_that_of_the_last_step_alone():
    model, (x1, text, empty) = Linear(), inputs()
    x = one_step_with_gradient(model, x1, TIMES, text, empty, 2.0)
    (gradient,) = torch.autograd.grad(x.sum(), model.w)
    with torch.no_grad():
        before = one_step_with_gradient(model, x1, TIMES[:-1], text, empty, 2.0)

        def after(w: float) -> float:
            model.w.fill_(w)
            return float(one_step_with_gradient(model, before, TIMES[-2:], text, empty, 2.0).sum())

        difference = (after(0.7 + 1e-6) - after(0.7 - 1e-6)) / 2e-6
    assert float(gradient) == pytest.approx(difference, rel=1e-6)


def test_the_steps_are_those_of_guided_sampling():
    generator = tiny_generator()
    draw = torch.Generator().manual_seed(2)
    x1 = torch.randn(2, *generator.latent_shape(5, 16, 16), generator=draw)
    text, empty = generator.encode_text(["a red circle", "a blue circle"]), generator.encode_text([""])
    with torch.no_grad():
        flow, x = ClassifierFree(generator.model, text, empty, 2.0), x1
        for t, after in pairwise(TIMES):
            x = x + (after - t) * flow(x, t)
        found = one_step_with_gradient(generator.model, x1, TIMES, text, empty, 2.0)
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-6)


def test_loss_ends_at_the_target():
    params = PARAMS.model_copy(update={"target": 2.0, "strength": 0.1})
    rewards = torch.tensor([0.5, 2.0, 3.0], requires_grad=True)
    loss = prfl_loss(rewards, params)
    assert loss.item() == pytest.approx(0.1 * 1.5 / 3)
    assert torch.autograd.grad(loss, rewards)[0].tolist() == pytest.approx([-0.1 / 3, 0, 0])


def test_rewards_are_means_by_weight_with_a_gradient_to_the_latents():
    generator = tiny_generator()
    torch.manual_seed(0)
    reward = LatentReward(generator.model.family, first_blocks(generator.model, 1), ["VQ", "TA"])
    torch.nn.init.normal_(reward.head)
    x = torch.randn(2, *generator.latent_shape(5, 16, 16), requires_grad=True)
    text = generator.encode_text(["a red circle", "a blue circle"])
    found = weighted(reward, x, 0.4, text, torch.tensor([3.0, 1.0]))
    scores = reward(x, torch.full((2,), 0.4), text)
    torch.testing.assert_close(found, (3 * scores[:, 0] + scores[:, 1]) / 4)
    assert torch.autograd.grad(found.sum(), x)[0].abs().max() > 0
