"""Losses of pairs by name (paper section 3.2; forms and constants as the reference implementation computes them).

All take scores of A and B [B, D], labels [B, D] (1: A preferred, -1: B preferred, 0: same, anything else: no label)
and, where the loss needs them, pointwise ratings of A and B [B, D] (0: no rating). All return the mean over the entries
that are valid for them; the reference divides by all entries, so that its loss shrinks with every missing label.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

RATING_CENTRE = 3.0  # middle of the 1 to 5 scale
CONSTANT_MARGIN = 0.57

Ratings = tuple[torch.Tensor, torch.Tensor]


def bradley_terry(a: torch.Tensor, b: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-log sigma(r_chosen - r_rejected), over decided pairs."""
    return _mean(-F.logsigmoid(labels * (a - b)), labels.abs() == 1)


def bradley_terry_ties(a: torch.Tensor, b: torch.Tensor, labels: torch.Tensor, theta: float) -> torch.Tensor:
    """Bradley-Terry with ties, Rao & Kupper (1967), theta > 1: -log of P(A > B) = e^a / (e^a + theta e^b), of P(B > A)
    likewise, or of P(tie) = (theta^2 - 1) e^a e^b / ((e^a + theta e^b) (theta e^a + e^b))."""
    k = math.log(theta)
    difference = a - b
    decided = -F.logsigmoid(labels * difference - k)
    tied = -F.logsigmoid(difference - k) - F.logsigmoid(-difference - k) - math.log(theta**2 - 1)
    return _mean(torch.where(labels == 0, tied, decided), labels.abs() <= 1)


def regression(a: torch.Tensor, b: torch.Tensor, ratings: Ratings) -> torch.Tensor:
    """(r - (rating - 3))^2 over all rated videos."""
    rated = torch.stack(ratings)
    return _mean((torch.stack([a, b]) - (rated - RATING_CENTRE)) ** 2, rated != 0)


def margin(a: torch.Tensor, b: torch.Tensor, labels: torch.Tensor, ratings: Ratings) -> torch.Tensor:
    """-log sigma(r_chosen - r_rejected - m), m how much higher the chosen one was rated."""
    gap = labels * (ratings[0] - ratings[1])
    return _mean(-F.logsigmoid(labels * (a - b) - gap), labels.abs() == 1)


def constant_margin(a: torch.Tensor, b: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-log sigma(r_chosen - r_rejected - 0.57)."""
    return _mean(-F.logsigmoid(labels * (a - b) - CONSTANT_MARGIN), labels.abs() == 1)


def scaled(a: torch.Tensor, b: torch.Tensor, labels: torch.Tensor, ratings: Ratings) -> torch.Tensor:
    """-m log sigma(r_chosen - r_rejected), m how much higher the chosen one was rated."""
    gap = labels * (ratings[0] - ratings[1])
    return _mean(-gap * F.logsigmoid(labels * (a - b)), labels.abs() == 1)


def pair_loss(name: str, theta: float) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """The loss of params.yaml's `reward.loss` that needs labels only: f(a, b, labels)."""
    if name == "btt":
        return lambda a, b, labels: bradley_terry_ties(a, b, labels, theta)
    return {"bt": bradley_terry, "constant_margin": constant_margin}[name]


def _mean(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    # where() and not a product: a masked entry may be infinite, and its gradient must be 0 and not NaN.
    total = torch.where(valid, values, torch.zeros_like(values)).sum()
    return total / valid.sum().clamp(min=1)
