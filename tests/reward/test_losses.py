"""Pair losses against the values and gradients of the reference implementation."""

import json
from pathlib import Path

import pytest
import torch

from components.reward import losses

CASES = json.loads((Path(__file__).parent / "reference/losses.json").read_text())["cases"]
NAMES = ("bt", "btt", "reg", "margin", "constant_margin", "scaled")


def compute(name, a, b, labels, ratings):
    return {
        "bt": lambda: losses.bradley_terry(a, b, labels),
        "btt": lambda: losses.bradley_terry_ties(a, b, labels, theta=5.0),
        "reg": lambda: losses.regression(a, b, ratings),
        "margin": lambda: losses.margin(a, b, labels, ratings),
        "constant_margin": lambda: losses.constant_margin(a, b, labels),
        "scaled": lambda: losses.scaled(a, b, labels, ratings),
    }[name]()


def valid_share(name, labels, ratings):
    """The reference divides by all entries, we by the valid ones: theirs = ours * this."""
    if name == "reg":
        return float((torch.stack(ratings) != 0).double().mean())
    valid = labels.abs() <= 1 if name == "btt" else labels.abs() == 1
    return float(valid.double().mean())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CASES)
def test_reference(case, name):
    facts = CASES[case]
    dtype = getattr(torch, facts["dtype"])
    a, b = (torch.tensor(facts[f"rewards_{side}"], dtype=dtype, requires_grad=True) for side in "AB")
    labels = torch.tensor(facts["chosen_label"])
    ratings = tuple(torch.tensor(facts[f"{side}_scores"], dtype=dtype) for side in "AB")
    loss = compute(name, a, b, labels, ratings)
    loss.backward()
    scale = valid_share(name, labels, ratings)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    assert float(loss) * scale == pytest.approx(facts["loss"][name], rel=tolerance, abs=tolerance)
    for side, rewards in (("A", a), ("B", b)):
        expected = torch.tensor(facts[f"grad_{side}"][name], dtype=dtype)
        torch.testing.assert_close(rewards.grad * scale, expected, rtol=1e-5, atol=tolerance)


def test_probabilities_of_ties_sum_to_one():
    a, b = torch.randn(100, 1, dtype=torch.double), torch.randn(100, 1, dtype=torch.double)
    total = sum(
        torch.exp(-losses.bradley_terry_ties(a[i : i + 1], b[i : i + 1], torch.tensor([[label]]), 5.0))
        for label in (1, -1, 0)
        for i in range(100)
    )
    assert float(total) == pytest.approx(100)


def test_missing_labels_change_neither_loss_nor_gradient():
    a, b = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    labels = torch.tensor([[1, 0, -1], [1, 1, 1], [0, 0, 0], [-1, 1, 0]])
    full = losses.bradley_terry_ties(a, b, labels, 5.0)
    more = torch.cat([a, torch.full((2, 3), torch.inf)])  # even infinite scores where nothing is labelled
    masked = losses.bradley_terry_ties(
        more, torch.cat([b, torch.zeros(2, 3)]), torch.cat([labels, torch.full((2, 3), 22)]), 5.0
    )
    assert float(full) == pytest.approx(float(masked))
    (gradient,) = torch.autograd.grad(masked, a)
    assert torch.isfinite(gradient).all()
