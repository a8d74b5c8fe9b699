"""What a claim's file holds: the words that were written before the run, and the function that measures a seed."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from benchmarks.claims.statistics import Part
from benchmarks.claims.world import World

Measured = dict[str, pd.Series]  # a value of each prompt, by name of a part or of a further look
FIRST_SEED = 17  # of three or more, one after the other


@dataclass(frozen=True)
class Claim:
    """parts: what the verdict is about, all must hold. more: further looks (name: words), without a verdict; reasons among
    them. measure(world, seed): values of each prompt. hours: of one core, for three seeds."""

    number: int
    title: str
    paper: str
    hypothesis: str
    refuted: str
    design: str
    parts: tuple[Part, ...]
    measure: Callable[[World, int], Measured]
    hours: float
    prompts: int
    more: tuple[Part, ...] = ()

    @property
    def command(self) -> str:
        return f"python -m benchmarks.claims run --claim {self.number}"
