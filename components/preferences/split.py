"""Split by prompt: no prompt is ever on two sides of train / validation / test.

Everything that splits goes through this file: pairs, pretraining, candidates, evaluation. Prompts that differ only in
white space, case or Unicode form are one prompt; near-duplicates stay together, by the rules of near.py.
"""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from components.errors import BadInput
from components.params import SplitParams
from components.preferences.near import near_groups

SPLITS = ("train", "validation", "test")
Split = Literal["train", "validation", "test"]


def prompt_key(prompt: str) -> str:
    """What makes two prompts the same: canonical caseless form (Unicode 3.13, D145), white space folded, NFC."""
    text = unicodedata.normalize("NFD", unicodedata.normalize("NFD", prompt).casefold())
    return " ".join(unicodedata.normalize("NFC", text).split())


def split_of(prompt: str, split: SplitParams) -> Split:
    """The split of one prompt under scheme `hash`: it depends on the prompt and the seed alone.

    A prompt keeps its split whatever other prompts come or go, so that a later, larger data set never moves a test
    prompt into training. Shares are `validation` and `test` in the long run; on few prompts a split may be empty.
    """
    if split.scheme != "hash":
        raise ValueError(f"scheme {split.scheme} deals all prompts at once: use split_prompts")
    place = int.from_bytes(_digest(prompt_key(prompt), split)[:8], "big") / 2**64
    if place < split.test:
        return "test"
    if place < split.test + split.validation:
        return "validation"
    return "train"


def split_prompts(prompts: Iterable[str], split: SplitParams) -> dict[str, Split]:
    """The split of each prompt of a data set, by the scheme that params name; near-duplicates share one.

    `hash`: split_of each; a group of near-duplicates goes where the most held-out of them falls (test before validation
    before train), so that prompts that come later may take a prompt out of training, but never into it. `round_robin`,
    for a handful of prompts: the groups, ordered by hash, are dealt in turn to train, validation and test (shares do not
    count), so that three groups or more leave no split empty. There a new prompt may move others: data sets that grow
    should use `hash`.
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


def held_out(prompts: np.ndarray, share: float, rng: np.random.Generator, file: str | Path) -> np.ndarray:
    """Mask [N] of rows whose prompt is held out of training; all of a prompt go together, at least one prompt is held.
    BadInput names `file` where there is a single prompt."""
    names = np.unique(prompts)
    if len(names) < 2:
        raise BadInput(file, "a single prompt cannot be split into training and validation")
    return np.isin(prompts, rng.choice(names, max(1, round(share * len(names))), replace=False))


def _digest(key: str, split: SplitParams) -> bytes:
    return hashlib.sha256(f"{split.seed}\n{key}".encode()).digest()
