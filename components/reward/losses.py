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
NEED_RATINGS = ("regression", "margin", "scaled")

Ratings = tuple[torch.Tensor, torch.Tensor]


def bradley_terry(a: torch.Tensor, b: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-log sigma(r_chosen - r_rejected), over decided pairs."""
    return _mean(-F.logsigmoid(labels * (a - b)), labels.abs() == 1)


def bradley_terry_ties(a: torch.Tensor, b: torch.Tensor, labels: torch.Tensor, theta: float) -> torch.Tensor:
    """Bradley-Terry with ties, Rao & Kupper (1967), theta > 1: -log of P(A > B) = e^a / (e^a + theta e^b), of P(B > A)
    likewise, or of P(tie) = (theta^2 - 1) e^a e^b / ((e^a + theta e^b) (theta e^a + e^b))."""
    return _mean(rao_kupper(a - b, labels, theta), labels.abs() <= 1)


def rao_kupper(difference: torch.Tensor, labels: torch.Tensor, theta: float) -> torch.Tensor:
    """The terms of bradley_terry_ties, from a - b; with `theta` 1 Bradley-Terry's, which has no ties."""
    k = math.log(theta)
    decided = -F.logsigmoid(labels * difference - k)
    if theta == 1:
        return decided
    tied = -F.logsigmoid(difference - k) - F.logsigmoid(-difference - k) - math.log(theta**2 - 1)
    return torch.where(labels == 0, tied, decided)


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


def pair_loss(name: str, theta: float) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Ratings], torch.Tensor]:
    """The loss of params.yaml's `reward.loss`: f(a, b, labels, ratings)."""
    return {
        "btt": lambda a, b, labels, ratings: bradley_terry_ties(a, b, labels, theta),
        "bt": lambda a, b, labels, ratings: bradley_terry(a, b, labels),
        "constant_margin": lambda a, b, labels, ratings: constant_margin(a, b, labels),
        "regression": lambda a, b, labels, ratings: regression(a, b, ratings),
        "margin": lambda a, b, labels, ratings: margin(a, b, _rated_only(labels, ratings), ratings),
        "scaled": lambda a, b, labels, ratings: scaled(a, b, _rated_only(labels, ratings), ratings),
    }[name]


def _rated_only(labels: torch.Tensor, ratings: Ratings) -> torch.Tensor:
    """Labels of pairs with both ratings. The reference takes a missing rating for one of 0: a clip rated 4 would beat an
    unrated one by 4."""
    return labels.masked_fill((ratings[0] == 0) | (ratings[1] == 0), 2)  # 2: no label, as anything but 1, -1 and 0


def _mean(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    # where() and not a product: a masked entry may be infinite, and its gradient must be 0 and not NaN.
    total = torch.where(valid, values, torch.zeros_like(values)).sum()
    return total / valid.sum().clamp(min=1)
