"""Split by prompt: no prompt is ever on two sides of train / validation / test.

All splits use this file: pairs, pretraining, candidates, evaluation. Prompts that differ only in white space, case or
Unicode form are one prompt; near-duplicates stay together, by the rules of near.py.
"""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

from components.config.params import SplitParams
from components.preferences.near import near_groups

SPLITS = ("train", "validation", "test")
Split = Literal["train", "validation", "test"]


def prompt_key(prompt: str) -> str:
    """The key by which two prompts are the same: canonical caseless form (Unicode 3.13, D145), white space folded, NFC."""
    if prompt.isascii():  # the same, at once
        return " ".join(prompt.lower().split())
    text = unicodedata.normalize("NFD", unicodedata.normalize("NFD", prompt).casefold())
    return " ".join(unicodedata.normalize("NFC", text).split())


def split_of(prompt: str, split: SplitParams) -> Split:
    """The split of one prompt under scheme `hash`: it depends on the prompt and the seed alone.

    A prompt keeps its split whatever other prompts are added or removed, so that a larger data set never moves a test
    prompt into training. Shares approach `validation` and `test`; with few prompts a split may be empty.
    """
    if split.scheme != "hash":
        raise ValueError(f"scheme {split.scheme} assigns all prompts at once: use split_prompts")
    place = int.from_bytes(_digest(prompt_key(prompt), split)[:8], "big") / 2**64
    if place < split.test:
        return "test"
    if place < split.test + split.validation:
        return "validation"
    return "train"


def split_prompts(prompts: Iterable[str], split: SplitParams) -> dict[str, Split]:
    """The split of each prompt of a data set, by the scheme of params; near-duplicates share one.

    `hash`: split_of each; a group of near-duplicates takes the most held-out split of its members (test before validation
    before train). A later prompt may then take a prompt out of training, but never into it. `round_robin`, for a handful of
    prompts: the groups, ordered by hash, go in turn to train, validation and test (shares are ignored), so that three
    groups or more leave no split empty. There a new prompt may move others: growing data sets should use `hash`.
    """
    prompts = list(prompts)
    keys = sorted({prompt_key(prompt) for prompt in prompts}, key=lambda key: _digest(key, split))
    groups = defaultdict(list)
    for key, first in zip(keys, near_groups(keys), strict=True):
        groups[first].append(key)
    sides: dict[str, Split] = {}
    for turn, first in enumerate(sorted(groups)):
        if split.scheme == "hash":
            side = max((split_of(key, split) for key in groups[first]), key=SPLITS.index)
        else:
            side = SPLITS[turn % len(SPLITS)]
        sides |= dict.fromkeys(groups[first], side)
    return {prompt: sides[prompt_key(prompt)] for prompt in prompts}


def _digest(key: str, split: SplitParams) -> bytes:
    return hashlib.sha256(f"{split.seed}\n{key}".encode()).digest()
