"""Names of methods, judges and dimensions as report and summary print them."""

from collections.abc import Iterable
from typing import Any

METHOD_NAMES = {
    "base": "Base",
    "sft": "SFT",
    "rwr": "Flow-RWR",
    "dpo": "Flow-DPO",
    "nrg": "Flow-NRG",
    "best_of_n": "Best of N",
}
JUDGE_NAMES = {"gold": "gold judge", "reward": "VideoReward"}
BY_JUDGE = {"gold": "the gold judge", "reward": "VideoReward"}  # in a sentence
DIMENSION_NAMES = {"VQ": "visual quality", "MQ": "motion quality", "TA": "text alignment", "Overall": "all of them together"}
LEGEND = "VQ visual quality, MQ motion quality, TA text alignment, Overall all of them together"


def in_order(found: dict[str, Any], names: Iterable[str]) -> list[tuple[str, Any]]:
    """Items in the order of `names`, others after them: metrics files are sorted by key."""
    return [(name, found[name]) for name in dict.fromkeys((*names, *found)) if name in found]
