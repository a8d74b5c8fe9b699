"""Judge `human:FILE`: people's answers of a finished study, the file that `reelign study read --out FILE` writes.

Clips are known by the digests of their files, so answers on other clips are never taken for these. A study has one pair of
methods, and may have a sample of the prompts.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from pydantic import Field

from components.contracts import DIMENSIONS
from components.errors import BadInput
from components.files.text import Record, read_record
from components.judges.protocol import REASON, Context, JudgeFacts, Pair
from components.pipeline.stage import folder_digest


class Verdict(Record):
    """People's points of the first of two clips, by dimension; digests are those of the files."""

    prompt: str
    digests: list[str] = Field(min_length=2, max_length=2)
    points: dict[str, float]


class People(Record):
    """What is read of the file."""

    annotators: int
    verdicts: list[Verdict]


class HumanJudge:
    """Points are means over annotators."""

    def __init__(self, name: str, key: str, file: Path, context: Context):
        people = read_record(file, People)
        if not people.verdicts:
            raise BadInput(file, "no answers", key="verdicts")
        self.file = file
        self.points: dict[tuple[str, str, str], dict[str, float]] = {}
        for row, verdict in enumerate(people.verdicts, start=1):
            if missing := [name for name in DIMENSIONS if name not in verdict.points]:
                raise BadInput(file, "missing key", row=row, key=f"verdicts.points.{missing[0]}")
            first, second = verdict.digests
            self.points[verdict.prompt, first, second] = verdict.points
            self.points[verdict.prompt, second, first] = {name: 1 - points for name, points in verdict.points.items()}
        self.facts = JudgeFacts(
            name=name,
            key=key,
            title="people",
            identity=folder_digest(file),
            dimensions=DIMENSIONS,
            unit=f"points, means over {people.annotators} annotators",
            tie_width=None,
            trusted=True,
            sampled=True,
            on_record=True,
        )

    def compare(self, pairs: Sequence[Pair]) -> pd.DataFrame:
        digests = {clip.video: folder_digest(clip.video) for pair in pairs for clip in pair if clip.frames is None}
        rows = []
        for first, second in pairs:
            sides = digests.get(first.video, ""), digests.get(second.video, "")
            found = self.points.get((first.prompt, *sides))
            rows.append(found or dict.fromkeys(DIMENSIONS, math.nan) | {REASON: f"{self.file} has no answer on this pair"})
        return pd.DataFrame(rows, columns=[*DIMENSIONS, REASON])
