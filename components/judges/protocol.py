"""What a judge is. It scores clips one by one, or compares two clips of one prompt.

A judge gives `Overall` and any of the other DIMENSIONS. Its table has a row for each clip or pair, in order, with a column
for each of its dimensions and `reason`: why there is no verdict, null where there is one. A failure is never a score.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from components.contracts import DIMENSIONS
from components.video.limits import LIMITS, Limits

REASON = "reason"
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]  # items, what, their number


@dataclass(frozen=True)
class JudgedClip:
    """A clip and its prompt. `video` is the path of its file; `frames` [T, H, W, 3] uint8 and `fps` are of a clip in memory,
    of which there is no file."""

    video: str
    prompt: str
    frames: np.ndarray | None = None
    fps: float | None = None


Pair = tuple[JudgedClip, JudgedClip]  # of one prompt


@dataclass(frozen=True)
class JudgeFacts:
    """What is on record of a judge.

    name: KIND:ARGUMENT as in params.yaml, KIND alone without an argument. key: its name in metrics and columns (Spec.key).
    title: its name in reports, after "by". identity: digest of all that a verdict depends on besides the clips and prompts;
    a card is bound to it. dimensions: of DIMENSIONS, in their order, with Overall. unit: of its scores, or of its points.
    tie_width: differences of scores up to this size are ties, by default; None for a judge of pairs, which states its ties
    itself. trusted: needs no card of its agreement with people (the gold judge, and people themselves). sampled: it has
    verdicts on a sample of pairs, drawn beforehand, and the others are left out; otherwise a missing verdict is an error.
    on_record: it has verdicts that were made before, and can judge no new clip.
    """

    name: str
    key: str
    title: str
    identity: str
    dimensions: tuple[str, ...]
    unit: str
    tie_width: float | None
    trusted: bool = False
    sampled: bool = False
    on_record: bool = False

    def as_json(self) -> dict[str, Any]:
        """The facts for metrics and evidence."""
        return asdict(self) | {"dimensions": list(self.dimensions)}


@runtime_checkable
class PointwiseJudge(Protocol):
    """A judge that scores clips one by one; a higher score is better."""

    facts: JudgeFacts

    def score(self, clips: Sequence[JudgedClip]) -> pd.DataFrame:
        """A row a clip, in order: a float64 column a dimension, `reason`, and further columns of measures if it has any."""
        ...


@runtime_checkable
class PairwiseJudge(Protocol):
    """A judge that compares two clips of one prompt."""

    facts: JudgeFacts

    def compare(self, pairs: Sequence[Pair]) -> pd.DataFrame:
        """A row a pair, in order: points of the first clip by dimension (1 win, 0 loss, one half a tie, means of several
        answers between them), float64, and `reason`."""
        ...


Judge = PointwiseJudge | PairwiseJudge


def everything(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    """A Progress that shows nothing."""
    return items


@dataclass(frozen=True)
class Context:
    """What judges are loaded with.

    limits: of clips that they decode. reward: folder of the reward model whose labels aligned the generators; a judge that
    is that model, or has learnt from it, is refused. state: folder of answers that outlive a killed run. progress: shows the
    work on clips or pairs.
    """

    limits: Limits = LIMITS
    reward: Path | None = None
    state: Path = Path(".reelign/judges")
    progress: Progress = everything


def in_order(dimensions: Iterable[str]) -> tuple[str, ...]:
    """Dimensions in the order of DIMENSIONS, each once."""
    known = set(dimensions)
    return tuple(name for name in DIMENSIONS if name in known)
