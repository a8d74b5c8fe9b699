"""What a score is, and names of scores; without torch, for all who read them."""

from collections.abc import Sequence
from dataclasses import dataclass

OVERALL = "Overall"


def score_names(dimensions: Sequence[str]) -> list[str]:
    """Names of a model's scores: its dimensions, and Overall unless that is one of them."""
    return list(dict.fromkeys([*dimensions, OVERALL]))


def version_in(digest: str, own: str, chosen: str | None) -> str:
    """What scores are stamped with: the digest of the model's bytes, which name its own dtype, and another one that was
    chosen for scoring."""
    return digest if chosen in (None, own) else f"{digest}-{chosen}"


@dataclass(frozen=True)
class Score:
    """Scores of one video under one prompt, by dimension. `normalised` is (raw - mean) / std of the validation set;
    `overall` is the sum of the normalised ones, as in the reference implementation, or the model's own Overall where that is
    one of its dimensions."""

    raw: dict[str, float]
    normalised: dict[str, float]
    overall: float
    model_version: str
    frame_plan: str


@dataclass(frozen=True)
class Unscored:
    """Why a video has no score."""

    reason: str
