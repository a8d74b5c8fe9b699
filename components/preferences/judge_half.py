"""What is kept for a judge: the pairs of some prompts in each split, or the labels of some annotators.

A group of near-duplicate prompts is whole in one part: its pairs would otherwise teach reward model and judge the same.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import sha256
from math import floor

from components.config.params import SplitParams
from components.contracts import SOURCE_ANNOTATIONS
from components.errors import BadInput
from components.pipeline.stage import seed_of
from components.preferences.near import near_groups
from components.preferences.schema import GIVEN, REVIEWER
from components.preferences.split import Split, prompt_key, split_prompts


def judge_prompts(sides: Mapping[str, Split], split: SplitParams, share: float) -> set[str]:
    """The judge's prompts, of prompts with their splits as split_prompts gives them.

    `hash`: by a hash of its own, independent of the split's. A later prompt may then take a prompt from the reward model,
    but never from the judge. `round_robin`: of the groups of each split, in turn.
    """
    if split.scheme == "hash":
        own = SplitParams(scheme="hash", seed=seed_of(split.seed, "judge"), validation=0.0, test=share)
        return {prompt for prompt, side in split_prompts(sides, own).items() if side == "test"}
    side_of: dict[str, Split] = {prompt_key(prompt): side for prompt, side in sides.items()}
    keys = sorted(side_of, key=lambda key: seed_of(split.seed, "judge", key))
    turns: Counter[Split] = Counter()
    taken: dict[int, bool] = {}  # by group
    chosen: dict[str, bool] = {}
    for key, group in zip(keys, near_groups(keys), strict=True):
        if group not in taken:
            turn = turns[side_of[key]]
            taken[group] = floor((turn + 1) * share) > floor(turn * share)
            turns[side_of[key]] += 1
        chosen[key] = taken[group]
    return {prompt for prompt in sides if chosen[prompt_key(prompt)]}


def judge_annotators(names: Iterable[str], seed: int, share: float) -> set[str]:
    """The judge's annotators: about `share` of them, at least one and not all, by a hash of the name, so that a later one
    hardly moves another. Final labels and those of the reviewer, who answers after the others, are the reward model's.
    BadInput where there are not two annotators."""
    place = {name: _place(seed, name) for name in names if name not in (GIVEN, REVIEWER)}
    if len(place) < 2:
        why = f"judge_reward.held_out keeps a share of the annotators for the judge, and there are {len(place)}"
        raise BadInput(SOURCE_ANNOTATIONS, why, key="annotator")
    in_order = sorted(place, key=place.__getitem__)
    count = sum(found < share for found in place.values())
    return set(in_order[: min(max(count, 1), len(in_order) - 1)])


def _place(seed: int, name: str) -> float:
    return int.from_bytes(sha256(f"{seed}\njudge\n{name}".encode()).digest()[:8], "big") / 2**64
