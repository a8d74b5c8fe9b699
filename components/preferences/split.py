"""Split by prompt: no prompt is ever on two sides of train / validation / test.

Everything that splits goes through this file: pairs, pretraining, candidates, evaluation. Prompts that differ only in
white space, case or Unicode form are one prompt.
"""

import hashlib
import unicodedata
from collections.abc import Iterable
from typing import Literal

from components.params import SplitParams

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
    """The split of each prompt of a data set, by the scheme that params name.

    `hash`: split_of each. `round_robin`, for a handful of prompts: the distinct prompts, ordered by hash, are dealt in
    turn to train, validation and test (shares do not count), so that three prompts or more leave no split empty. There
    a new prompt may move others: data sets that grow should use `hash`.
    """
    prompts = list(prompts)
    if split.scheme == "hash":
        return {prompt: split_of(prompt, split) for prompt in prompts}
    keys = sorted({prompt_key(prompt) for prompt in prompts}, key=lambda key: _digest(key, split))
    dealt = {key: SPLITS[turn % len(SPLITS)] for turn, key in enumerate(keys)}
    return {prompt: dealt[prompt_key(prompt)] for prompt in prompts}


def _digest(key: str, split: SplitParams) -> bytes:
    return hashlib.sha256(f"{split.seed}\n{key}".encode()).digest()
