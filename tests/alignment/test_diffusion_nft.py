"""DiffusionNFT's formula number by number, its gradient by differences, its limits, and the old policy it compares with."""

import math

import numpy as np
import pytest
import torch

from components.alignment.advantages import advantages
from components.alignment.methods.diffusion_nft import nft_loss, optimality, train_nft
from components.alignment.weights import averaged, copy_of, exchanged, put
from components.config.params import load_params
from tests.alignment.test_align import disturb, pairs, transformer  # noqa: F401

BETAS = [0.1, 1.0, 2.5]


def batch(seed: int = 0, clips: int = 4) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shape = (clips, 3, 2, 2, 2)
    made = {name: torch.randn(shape, generator=draw, dtype=torch.float64) for name in ("velocity", "old", "target")}
    made["r"], made["t"] = torch.rand(2, clips, generator=draw, dtype=torch.float64)
    return made


def plain(made: dict[str, torch.Tensor], beta: float) -> float:
    """The module's first formula, a number at a time."""
    total = 0.0
    for i in range(len(made["r"])):
        r, squares = float(made["r"][i]), []
        for v, old, u in zip(*(made[name][i].flatten().tolist() for name in ("velocity", "old", "target")), strict=True):
            positive, negative = (1 - beta) * old + beta * v - u, (1 + beta) * old - beta * v - u
            squares.append(r * positive**2 + (1 - r) * negative**2)
        total += math.fsum(squares) / len(squares)
    return total / len(made["r"])


@pytest.mark.parametrize("beta", BETAS)
def test_loss_is_the_formula(beta):
    made = batch()
    assert float(nft_loss(**made, beta=beta)[0]) == pytest.approx(plain(made, beta), rel=1e-12)


@pytest.mark.parametrize("beta", BETAS)
def test_loss_is_the_expansion_around_the_old_policy(beta):
    made = batch(1)
    off, moved = made["old"] - made["target"], made["velocity"] - made["old"]
    sign = (2 * made["r"] - 1).view(-1, 1, 1, 1, 1)
    expected = (off**2 + 2 * beta * sign * off * moved + beta**2 * moved**2).mean()
    torch.testing.assert_close(nft_loss(**made, beta=beta)[0], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("beta", BETAS)
def test_gradient_is_that_of_differences(beta):
    made = batch(2, clips=2)
    velocity = made.pop("velocity").requires_grad_(True)
    assert torch.autograd.gradcheck(lambda v: nft_loss(v, **made, beta=beta)[0], velocity, atol=1e-8, rtol=1e-6)


def test_at_its_limits_it_reduces_to_what_it_should():
    made = batch(3)
    velocity, old, target = (made[name] for name in ("velocity", "old", "target"))
    ones = torch.ones_like(made["r"])

    def loss(r, beta, velocity=velocity):
        return nft_loss(velocity, old, target, r, made["t"], beta)[0]

    torch.testing.assert_close(loss(ones, 1.0), ((velocity - target) ** 2).mean())  # flow matching on a good clip
    torch.testing.assert_close(loss(0 * ones, 1.0), ((2 * old - velocity - target) ** 2).mean())  # on its mirror image
    torch.testing.assert_close(loss(made["r"], 0.0), ((old - target) ** 2).mean())  # b 0: the policy has no part
    torch.testing.assert_close(loss(made["r"], 0.7, old), ((old - target) ** 2).mean())  # policy = old: reward has no part
    even = ((old - target) ** 2).mean() + 0.7**2 * ((velocity - old) ** 2).mean()
    torch.testing.assert_close(loss(ones / 2, 0.7), even)  # no preference: only the pull to the old policy


def test_where_policy_is_old_the_gradient_is_that_of_weighted_regression():
    made = batch(4)
    velocity = made["old"].clone().requires_grad_(True)
    loss, logs = nft_loss(velocity, made["old"], made["target"], made["r"], made["t"], 0.3)
    sign = (2 * made["r"] - 1).view(-1, 1, 1, 1, 1)
    expected = 2 * 0.3 * sign * (made["old"] - made["target"]) / velocity.numel()
    torch.testing.assert_close(torch.autograd.grad(loss, velocity)[0], expected)
    assert logs["distance"] == 0


def test_distance_is_by_timestep():
    made = batch(5, clips=3) | {"t": torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)}
    made["velocity"] = made["old"].clone()
    made["velocity"][2] *= 1.5
    logs = nft_loss(**made, beta=1.0)[1]
    assert [round(float(logs[f"distance/{b}"]), 12) for b in range(3)] == [0, 0, 0.25]
    assert float(logs["distance"]) == pytest.approx(0.25 / 3)


def test_advantages_are_against_the_clips_of_the_prompt():
    rewards, prompts = np.array([1.0, 3.0, 10.0, 10.5, 9.5]), np.array(["a", "a", "b", "b", "b"])
    centred = np.array([-1.0, 1.0, 0.0, 0.5, -0.5])
    spread = math.sqrt((1 + 1 + 0 + 0.25 + 0.25) / 5)
    np.testing.assert_allclose(advantages(rewards, prompts, 2.0), centred / (2 * spread))
    np.testing.assert_allclose(advantages(rewards, prompts, 0.5), np.clip(centred / (0.5 * spread), -1, 1))
    np.testing.assert_allclose(optimality(rewards, prompts, 2.0), 0.5 + 0.5 * centred / (2 * spread))
    shuffled = [3, 0, 4, 1, 2]
    np.testing.assert_allclose(advantages(rewards[shuffled], prompts[shuffled], 2.0), (centred / (2 * spread))[shuffled])


@pytest.mark.parametrize("rewards", [[0.1 + 0.2, 0.3, 5.0, 5.0], [0.0] * 4, [1e9 + 0.1] * 4])
def test_equal_rewards_of_a_prompt_prefer_none(rewards):
    assert (optimality(np.array(rewards), np.array(["a", "a", "b", "b"]), 1.0) == 0.5).all()


def test_exchanged_weights_are_back_bit_for_bit(transformer):  # noqa: F811
    before = copy_of(transformer)
    disturb(transformer)
    own = copy_of(transformer)
    with pytest.raises(KeyboardInterrupt), exchanged(transformer, before):
        assert all(torch.equal(before[name], weight) for name, weight in copy_of(transformer).items())
        assert not torch.is_grad_enabled()
        raise KeyboardInterrupt
    assert all(torch.equal(own[name], weight) for name, weight in copy_of(transformer).items())
    assert any(not torch.equal(own[name], before[name]) for name in own)


def test_averages_of_policies():
    old, new = {"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([2.0, 0.0])}
    assert torch.equal(averaged(old, new, 0.0)["w"], new["w"])
    torch.testing.assert_close(averaged(old, new, 0.75)["w"], torch.tensor([0.5, 3.0]))


def trained(stage, model, drawn, old=None, steps: int = 3, **change):
    params = load_params().online.nft
    settings = {"steps": steps, "batch_size": 4, "log_every": 1, "accumulation": 1}
    params = params.model_copy(update={"training": params.training.model_copy(update=settings), **change})
    drawn.candidates.table["prompt_id"] = [f"p{n // 3}" for n in range(12)]
    rewards = np.arange(12) % 3 * 1.0
    return train_nft(stage, model, drawn.candidates, rewards, old or copy_of(model), params, "round-1", before=6)


def test_at_zero_lora_policy_old_and_base_are_equal(transformer, pairs, bare_stage):  # noqa: F811
    rows = trained(bare_stage, transformer, pairs, anchor=0.5)
    assert rows[0]["distance"] == 0 and rows[0]["from_base"] == 0
    assert all(row["distance"] > 0 and row["from_base"] > 0 for row in rows[1:])
    assert [row["step"] for row in rows] == [7, 8, 9], "steps count on from the rounds before"
    assert not any("frozen_old" in row for row in rows) and not any("ALARM" in line for line in bare_stage.said)


def test_an_old_policy_that_stays_equal_raises_the_alarm(transformer, pairs, bare_stage):  # noqa: F811
    rows = trained(bare_stage, transformer, pairs, steps=1)
    assert rows[-1]["frozen_old"] == 1 and any("ALARM: v equals v_old" in line for line in bare_stage.said)


def test_the_old_policy_is_the_one_that_is_given(transformer, pairs, bare_stage):  # noqa: F811
    zero = copy_of(transformer)
    disturb(transformer)
    first = trained(bare_stage, transformer, pairs, old=zero)[0]
    assert first["distance"] > 1e-4
    put(transformer, zero)
    assert all(torch.equal(zero[name], weight) for name, weight in copy_of(transformer).items())
