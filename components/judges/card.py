"""A judge's card: how far the judge agrees with people, measured on their labels.

A card belongs to one judge by its identity, and to the pairs that it was measured on by their digest. Cards of a team lie in
`judges/`, in its repository; `reelign judge check` writes them. That of a VideoReward may lie in the model's folder.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from components.contracts import JUDGES_FOLDER
from components.errors import BadInput
from components.files.text import Record, read_record
from components.pipeline.stage import write_json

CARD = "judge_card.json"  # in the folder of a VideoReward that judges
SUFFIX = ".card.json"  # of cards in JUDGES_FOLDER
Share = Annotated[float, Field(ge=0, le=1)]


class Figure(Record):
    """An estimate with its 95% interval over prompts, as components/statistics/intervals.py has it; null where there is none
    to be had. `n` counts pairs."""

    value: float | None
    ci95: Annotated[list[float], Field(min_length=2, max_length=2)] | None
    n: Annotated[int, Field(ge=0)]
    prompts: int | None = None  # where they are too few for an interval

    def above(self, floor: float) -> bool:
        """Whether the whole interval lies above `floor`; False without an interval."""
        return self.ci95 is not None and self.ci95[0] > floor


class Agreement(Record):
    """Accuracy in one dimension against people's labels. Without ties: of pairs that people decided. With ties: of all, with
    three classes."""

    accuracy_without_ties: Figure
    accuracy_with_ties: Figure


class JudgeCard(Record):
    """Content of a card. Optional figures are null where they do not apply or were not measured.

    position_bias: share of answers for the clip shown first, less one half, over pairs in both orders; null for pointwise
    judges, which see one clip at a time. self_consistency: share of repeated questions with the same answer. length_bias and
    brightness_bias: Spearman correlation of the judge's preference, less people's, with the difference in frames and in mean
    brightness. failures: pairs without a verdict, which no accuracy counts.
    """

    judge: str  # KIND:ARGUMENT
    identity: str  # JudgeFacts.identity
    protocol: Literal["pointwise", "pairwise"]
    unit: str
    pairs: str  # file or folder of the labelled pairs
    pairs_digest: str
    count: Annotated[int, Field(ge=0)]  # of pairs
    prompts: Annotated[int, Field(ge=0)]
    failures: Annotated[int, Field(ge=0)]
    dimensions: dict[str, Agreement]
    position_bias: Figure | None = None
    self_consistency: Figure | None = None
    length_bias: Figure | None = None
    brightness_bias: Figure | None = None

    def agrees(self, floor: float = 0.5) -> bool:
        """Whether the judge's accuracy without ties, Overall, is surely above `floor`; 0.5 is chance."""
        found = self.dimensions.get("Overall")
        return found is not None and found.accuracy_without_ties.above(floor)


def write_card(file: Path, card: JudgeCard) -> None:
    """Write a card, whole or not at all."""
    write_json(file, card.model_dump(mode="json"))


def read_card(file: Path) -> JudgeCard:
    """A card. BadInput names the key that is missing or wrong."""
    return read_record(file, JudgeCard)


def card_file(key: str, folder: Path = JUDGES_FOLDER) -> Path:
    """Where the card of the judge with this key (Spec.key) lies."""
    return folder / f"{key}{SUFFIX}"


def cards_below(folder: Path = JUDGES_FOLDER, others: Iterable[Path] = ()) -> dict[str, tuple[Path, JudgeCard]]:
    """Cards of a folder and of the files `others` that exist, by identity of the judge, with their files. BadInput where two
    are of one judge: neither is chosen silently."""
    files = [*(sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else ()), *(file for file in others if file.exists())]
    found: dict[str, tuple[Path, JudgeCard]] = {}
    for file in files:
        card = read_card(file)
        if card.identity in found:
            raise BadInput(file, f"{found[card.identity][0]} is a card of this very judge too", key="identity")
        found[card.identity] = file, card
    return found
