"""Names of judges and dimensions as report and summary print them. Those of methods are in components/methods.py."""

from collections.abc import Iterable
from typing import Any

from components.methods import METHODS

REWARD = "reward"
DIMENSION_NAMES = {"VQ": "visual quality", "MQ": "motion quality", "TA": "text alignment", "Overall": "all of them together"}
LEGEND = "VQ visual quality, MQ motion quality, TA text alignment, Overall all of them together"


def judges_of(alignment: dict) -> list[str]:
    """Judges of metrics/alignment.json: the one that decides, other held-out ones, VideoReward."""
    first = [alignment["decides"]] if alignment["decides"] else []
    return [*dict.fromkeys([*first, *sorted(alignment["judges"])]), REWARD]


def by_judge(alignment: dict, judge: str) -> str:
    """A judge in a sentence, after "by"."""
    return "VideoReward" if judge == REWARD else alignment["judges"][judge]["title"]


def judge_name(alignment: dict, judge: str) -> str:
    """A judge as a heading or label."""
    return by_judge(alignment, judge).removeprefix("the ")


def mark(alignment: dict, judge: str) -> str:
    """CSS class of a judge's figures: VideoReward, the judge that decides, another one."""
    return judge if judge == REWARD else "first" if judge == alignment["decides"] else "other"


def titles() -> dict[str, str]:
    """Titles of all methods, base's among them."""
    return {name: method.title for name, method in METHODS.items()}


def in_order(found: dict[str, Any], names: Iterable[str]) -> list[tuple[str, Any]]:
    """Items in the order of `names`, others after them: metrics files are sorted by key."""
    return [(name, found[name]) for name in dict.fromkeys((*names, *found)) if name in found]
