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


LABELS = torch.tensor([[1, 0, -1], [-1, 1, 22], [0, 1, -1], [1, -1, 0]])
RATED_A = torch.tensor([[4.0, 3.0, 1.0], [2.0, 0.0, 3.0], [3.0, 5.0, 0.0], [0.0, 1.5, 3.0]])
RATED_B = torch.tensor([[2.0, 3.0, 5.0], [5.0, 1.0, 0.0], [3.0, 2.0, 0.0], [1.0, 4.0, 3.5]])
DECIDED, BOTH = LABELS.abs() == 1, (RATED_A != 0) & (RATED_B != 0)
# name: where A's score takes part, where B's does
VALID = {
    "btt": (LABELS.abs() <= 1,) * 2,
    "bt": (DECIDED,) * 2,
    "constant_margin": (DECIDED,) * 2,
    "regression": (RATED_A != 0, RATED_B != 0),
    "margin": (DECIDED & BOTH,) * 2,
    "scaled": (DECIDED & BOTH,) * 2,
}


@pytest.mark.parametrize("name", VALID)
def test_a_loss_by_name_is_a_mean_over_its_valid_entries_only(name):
    loss_of, ratings = losses.pair_loss(name, 5.0), (RATED_A, RATED_B)
    torch.manual_seed(0)
    scores = torch.randn(2, 4, 3)
    a, b = (side.clone().requires_grad_() for side in scores)
    loss = loss_of(a, b, LABELS, ratings)
    loss.backward()
    for side, valid in zip((a, b), VALID[name], strict=True):
        assert ((side.grad != 0) == valid).all()
    # The same mean, entry by entry.
    single, count = 0.0, 0
    for i in range(4):
        for j in range(3):
            entry = (t[i : i + 1, j : j + 1] for t in (*scores, LABELS, *ratings))
            x, y, label, *rated = entry
            valid = sum(int(v[i, j]) for v in VALID[name])
            single, count = single + float(loss_of(x, y, label, tuple(rated))) * valid, count + valid
    assert float(loss.detach()) == pytest.approx(single / count, rel=1e-5)


@pytest.mark.parametrize("name", VALID)
def test_nothing_valid_is_no_loss(name):
    a, b = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    loss = losses.pair_loss(name, 5.0)(a, b, torch.full((2, 3), 22), (torch.zeros(2, 3), torch.zeros(2, 3)))
    loss.backward()
    assert float(loss.detach()) == 0 and (a.grad == 0).all()
