"""Flow-DPO's formula against a plain re-derivation in float64, in all its variants, and its gradients by differences."""

import math

import numpy as np
import pytest
import torch

from components.alignment.flow import by_timestep, noised, squared_errors, timesteps_at
from components.alignment.methods.flow_dpo import automatic_beta, beta_at, flow_dpo_loss
from components.config.params import DpoParams, TimestepParams, load_params

VARIANTS = {
    "the paper's": {},
    "squared beta": {"schedule": "squared"},
    "summed": {"reduction": "sum", "beta": 0.02},
    "ties": {"theta": 1.7},
    "anchored": {"sft_weight": 0.3},
    "all at once": {"schedule": "squared", "reduction": "sum", "beta": 0.05, "theta": 3.0, "sft_weight": 0.01},
}


def params(**change) -> DpoParams:
    return load_params().align.dpo.model_copy(update={"beta": 0.7, **change})


def random_batch(seed: int, pairs: int = 5) -> dict[str, torch.Tensor]:
    """Velocities of the two clips, of policy and reference; t, weights, ties."""
    draw = torch.Generator().manual_seed(seed)
    shape = (pairs, 4, 3, 2, 2)
    names = ("chosen", "rejected", "policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
    batch = {name: torch.randn(shape, generator=draw, dtype=torch.float64) for name in names}
    batch["t"], batch["weights"] = torch.rand(2, pairs, generator=draw, dtype=torch.float64)
    batch["tied"] = torch.rand(pairs, generator=draw) < 0.4
    return batch


def loss_of(batch: dict[str, torch.Tensor], p: DpoParams) -> torch.Tensor:
    errors = [
        squared_errors(batch[clip], batch[f"{model}_{clip}"], p.reduction)
        for model in ("policy", "reference")
        for clip in ("chosen", "rejected")
    ]
    tied = batch["tied"] if p.theta > 1 else False
    return flow_dpo_loss(*errors, batch["t"], p, batch["weights"], tied)[0]


def plain(batch: dict[str, torch.Tensor], p: DpoParams) -> float:
    """The same from paper-and-pencil formulas, a number at a time."""
    arrays = {name: tensor.numpy() for name, tensor in batch.items()}
    total = anchor = 0.0
    pairs = len(arrays["t"])
    for i in range(pairs):

        def error(model, clip, i=i):
            squares = [(a - b) ** 2 for a, b in zip(arrays[clip][i].flat, arrays[f"{model}_{clip}"][i].flat, strict=True)]
            return math.fsum(squares) / (1 if p.reduction == "sum" else len(squares))

        win = error("policy", "chosen") - error("reference", "chosen")
        lose = error("policy", "rejected") - error("reference", "rejected")
        beta = p.beta * ((1 - arrays["t"][i]) ** 2 if p.schedule == "squared" else 1)
        e = math.exp(-beta / 2 * (win - lose))
        if p.theta > 1 and arrays["tied"][i]:
            chance = (p.theta**2 - 1) * e / ((e + p.theta) * (p.theta * e + 1))
        else:
            chance = e / (e + p.theta)
        total -= arrays["weights"][i] * math.log(chance)
        anchor += p.sft_weight * error("policy", "chosen")
    return (total + anchor) / pairs


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("seed", range(20))
def test_the_loss_is_the_formula(change, seed):
    batch, p = random_batch(seed), params(**change)
    assert float(loss_of(batch, p)) == pytest.approx(plain(batch, p), abs=1e-10, rel=1e-10)


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS)
def test_its_gradients_are_those_of_finite_differences(change):
    batch, p = random_batch(7, pairs=2), params(**change)
    moving = {name: batch[name].requires_grad_() for name in ("policy_chosen", "policy_rejected")}

    def loss(*tensors):
        return loss_of({**batch, **dict(zip(moving, tensors, strict=True))}, p)

    assert torch.autograd.gradcheck(loss, tuple(moving.values()), eps=1e-6, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_errors_are_never_summed_in_less_than_single_precision(dtype):
    target = torch.ones(2, 16, 4, 8, 8, dtype=dtype)
    errors = squared_errors(target, torch.zeros_like(target), "sum")
    assert errors.tolist() == [4096.0, 4096.0]
    assert errors.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_it_is_log_two_where_policy_and_reference_agree():
    errors = torch.rand(7)
    loss, _ = flow_dpo_loss(errors, errors + 1, errors, errors + 1, torch.rand(7), params(beta=50.0))
    assert float(loss) == pytest.approx(math.log(2), abs=1e-7)


def test_a_better_chosen_and_a_worse_rejected_lower_the_loss():
    one, t = torch.ones(3), torch.full((3,), 0.5)
    base, _ = flow_dpo_loss(one, one, one, one, t, params())
    better, _ = flow_dpo_loss(0.9 * one, one, one, one, t, params())
    apart, _ = flow_dpo_loss(0.9 * one, 1.1 * one, one, one, t, params())
    assert apart < better < base


def test_a_tie_pulls_the_clips_together():
    one, t, tied = torch.ones(3), torch.full((3,), 0.5), torch.ones(3, dtype=torch.bool)
    near, _ = flow_dpo_loss(one, one, one, one, t, params(theta=2.0), tied=tied)
    apart, logs = flow_dpo_loss(0.5 * one, 1.5 * one, one, one, t, params(theta=2.0), tied=tied)
    assert near < apart
    assert math.isnan(float(logs["implicit_accuracy"])), "ties have no right order"


def test_a_pair_of_no_weight_has_no_say():
    errors, t = torch.rand(4, 2), torch.rand(2)
    alone, _ = flow_dpo_loss(*errors[:, :1], t[:1], params())
    both, _ = flow_dpo_loss(*errors, t, params(), weights=torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(both, alone)


def test_the_derived_beta_vanishes_at_pure_noise():
    t = torch.tensor([0.0, 0.5, 1.0])
    assert beta_at(t, 8.0, "squared").tolist() == [8.0, 2.0, 0.0]
    assert beta_at(t, 8.0, "constant").tolist() == [8.0, 8.0, 8.0]


def test_values_are_binned_by_timestep():
    bins = by_timestep("x", torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.1, 0.2, 1.0]))
    assert float(bins["x/0"]) == 1.5 and math.isnan(float(bins["x/1"])) and float(bins["x/2"]) == 4.0


def test_the_path_is_straight_from_clip_to_noise():
    x0, x1 = torch.randn(2, 3, 4, 2, 2, 2)
    at, velocity = noised(x0, x1, torch.tensor([0.0, 1.0, 0.25]))
    torch.testing.assert_close(at, torch.stack([x0[0], x1[1], 0.75 * x0[2] + 0.25 * x1[2]]))
    later, _ = noised(x0, x1, torch.tensor([0.1, 1.1, 0.35]))
    torch.testing.assert_close((later - at) / 0.1, velocity, rtol=1e-4, atol=1e-4)


def test_timesteps_by_distribution_and_shift():
    u = torch.from_numpy((np.arange(10_000) + 0.5) / 10_000)
    assert torch.equal(timesteps_at(u, TimestepParams(distribution="uniform", shift=1.0)), u)
    logits = torch.logit(timesteps_at(u, TimestepParams(distribution="logit_normal", shift=1.0)))
    assert float(logits.mean()) == pytest.approx(0, abs=1e-9) and float(logits.std()) == pytest.approx(1, abs=1e-3)
    shifted = timesteps_at(u, TimestepParams(distribution="uniform", shift=3.0))
    torch.testing.assert_close(shifted, 3 * u / (1 + 2 * u))


@pytest.mark.parametrize("target", [0.05, 0.2, 0.45])
def test_automatic_beta_holds_the_mean_factor_of_the_gradient(target):
    draw = torch.Generator().manual_seed(8)
    margins = torch.randn(64, generator=draw, dtype=torch.float64)
    beta = automatic_beta(margins, target, 1e6)
    assert float(torch.sigmoid(-beta * margins.abs()).mean()) == pytest.approx(target, abs=1e-9)
    assert float(automatic_beta(10 * margins, target, 1e6)) == pytest.approx(float(beta) / 10)
    assert float(automatic_beta(margins, target, float(beta) / 2)) == pytest.approx(float(beta) / 2), "the largest"
    assert float(automatic_beta(0 * margins, target, 70.0)) == 70.0


@pytest.mark.parametrize("schedule", ["constant", "squared"])
def test_the_loss_has_the_automatic_beta(schedule):
    batch = random_batch(9, pairs=32) | {"tied": torch.zeros(32, dtype=torch.bool)}
    own = params(schedule=schedule, beta=500.0, gradient_factor=0.3)
    errors = [
        squared_errors(batch[clip], batch[f"{model}_{clip}"], "mean")
        for model in ("policy", "reference")
        for clip in ("chosen", "rejected")
    ]
    loss, logs = flow_dpo_loss(*errors, batch["t"], own)
    chosen, rejected, old_chosen, old_rejected = errors
    inside = (rejected - old_rejected - chosen + old_chosen) / 2 * (1 if schedule == "constant" else (1 - batch["t"]) ** 2)
    beta = automatic_beta(inside, 0.3, 500.0)
    expected = -torch.nn.functional.logsigmoid(beta * inside).mean()
    torch.testing.assert_close(loss, expected)
    assert float(torch.sigmoid(-beta * inside.abs()).mean()) == pytest.approx(0.3)
    assert "beta" not in flow_dpo_loss(*errors, batch["t"], params())[1] and float(logs["beta"]) > 0
