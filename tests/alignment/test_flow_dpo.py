"""Flow-DPO's formula against a plain re-derivation in float64."""

import math

import pytest
import torch

from components.alignment.flow_dpo import beta_at, change_by_timestep, flow_dpo_loss, squared_errors
from components.params import DpoParams, TrainingParams, load_params


def params(**change) -> DpoParams:
    training: TrainingParams = load_params().align.dpo.training
    return DpoParams(**{"training": training, "beta": 50.0, "schedule": "constant", "reduction": "mean"} | change)


def random_velocities(seed: int):
    draw = torch.Generator().manual_seed(seed)
    shape = (5, 4, 3, 2, 2)
    return [torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(6)], torch.rand(
        5, generator=draw, dtype=torch.float64
    )


@pytest.mark.parametrize("schedule", ["constant", "squared"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_loss_is_the_papers(schedule, reduction):
    (vw, vl, pw, pl, rw, rl), t = random_velocities(3)
    p = params(schedule=schedule, reduction=reduction, beta=0.7)
    errors = [squared_errors(v, q, reduction).double() for v, q in ((vw, pw), (vl, pl), (vw, rw), (vl, rl))]
    loss, logs = flow_dpo_loss(*errors, t, p)

    total, insides = 0.0, []
    for i in range(5):

        def error(v, q, i=i):
            e = (v[i] - q[i]).pow(2)
            return float(e.sum() if reduction == "sum" else e.mean())

        beta = 0.7 * ((1 - float(t[i])) ** 2 if schedule == "squared" else 1)
        inside = -beta / 2 * ((error(vw, pw) - error(vw, rw)) - (error(vl, pl) - error(vl, rl)))
        insides.append(inside)
        total += -math.log(1 / (1 + math.exp(-inside)))
    assert float(loss) == pytest.approx(total / 5, rel=1e-6)
    assert float(logs["implicit_accuracy"]) == pytest.approx(sum(x > 0 for x in insides) / 5)


def test_it_is_log_two_where_policy_and_reference_agree():
    errors = torch.rand(7)
    loss, _ = flow_dpo_loss(errors, errors + 1, errors, errors + 1, torch.rand(7), params())
    assert float(loss) == pytest.approx(math.log(2), abs=1e-7)


def test_a_better_chosen_and_a_worse_rejected_lower_the_loss():
    one, t = torch.ones(3), torch.full((3,), 0.5)
    base, _ = flow_dpo_loss(one, one, one, one, t, params())
    better, _ = flow_dpo_loss(0.9 * one, one, one, one, t, params())
    apart, _ = flow_dpo_loss(0.9 * one, 1.1 * one, one, one, t, params())
    assert apart < better < base


def test_the_derived_beta_vanishes_at_pure_noise():
    t = torch.tensor([0.0, 0.5, 1.0])
    assert beta_at(t, 8.0, "squared").tolist() == [8.0, 2.0, 0.0]
    assert beta_at(t, 8.0, "constant").tolist() == [8.0, 8.0, 8.0]


def test_changes_are_binned_by_timestep():
    bins = change_by_timestep("x", torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.1, 0.2, 1.0]))
    assert float(bins["x/0"]) == 1.5 and math.isnan(float(bins["x/1"])) and float(bins["x/2"]) == 4.0
