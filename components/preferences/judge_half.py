"""Prompts whose pairs are kept for a judge, in each split. A group of near-duplicate prompts is whole in one part: its pairs
would otherwise teach reward model and judge the same."""

from collections import Counter
from collections.abc import Mapping
from math import floor

from components.config.params import SplitParams
from components.pipeline.stage import seed_of
from components.preferences.near import near_groups
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
