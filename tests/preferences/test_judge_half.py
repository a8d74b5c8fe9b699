"""Prompts that are a judge's alone: whole groups, of each split, and never given back. Annotators that are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.config.params import SplitParams
from components.errors import BadInput
from components.preferences.judge_half import judge_annotators, judge_prompts
from components.preferences.near import near_groups
from components.preferences.split import SPLITS, prompt_key, split_prompts
from tests.preferences.near import near_and_far

HASH = SplitParams(scheme="hash", seed=5, validation=0.1, test=0.2)
DEAL = SplitParams(scheme="round_robin", seed=5, validation=0.1, test=0.2)
PROMPTS = [f"a scene of kind {n}" for n in range(3000)]


def judges(prompts, split, share):
    return judge_prompts(split_prompts(prompts, split), split, share)


@given(prompts=near_and_far(), scheme=st.sampled_from([HASH, DEAL]), share=st.floats(0.1, 0.9))
def test_no_group_of_near_duplicates_is_in_both_parts(prompts, scheme, share):
    found = judges(prompts, scheme, share)
    keys = sorted({prompt_key(prompt) for prompt in prompts})
    aside = {prompt_key(prompt) for prompt in found}
    groups = dict(zip(keys, near_groups(keys), strict=True))
    assert not {groups[key] for key in aside} & {groups[key] for key in keys if key not in aside}
    assert all((prompt in found) == (prompt_key(prompt) in aside) for prompt in prompts)


@pytest.mark.parametrize("share", [0.2, 0.5])
@pytest.mark.parametrize("scheme", [HASH, DEAL])
def test_each_split_gives_the_share(scheme, share):
    """The judge's prompts are drawn independently of the split: within 4 standard errors by hash, exactly in turn."""
    sides, found = split_prompts(PROMPTS, scheme), judges(PROMPTS, scheme, share)
    for name in SPLITS:
        own = [prompt in found for prompt in PROMPTS if sides[prompt] == name]
        error = 4 * np.sqrt(share * (1 - share) / len(own)) if scheme is HASH else 1 / len(own)
        assert abs(np.mean(own) - share) < error


def test_more_prompts_and_a_larger_share_give_nothing_back():
    some = judges(PROMPTS[:500], HASH, 0.3)
    assert some <= judges(PROMPTS, HASH, 0.3) < judges(PROMPTS, HASH, 0.5)
    other = HASH.model_copy(update={"seed": 6})
    assert judges(PROMPTS, other, 0.3) != judges(PROMPTS, HASH, 0.3)


def test_a_share_of_the_annotators_is_the_judges_whoever_else_comes():
    names = [f"person {n}" for n in range(400)]
    half = judge_annotators([*names, "given", "reviewer"], 5, 0.5)
    assert half < set(names) and 160 < len(half) < 240
    assert judge_annotators(names[:200], 5, 0.5) == half & set(names[:200]), "a later annotator moves no other"
    assert judge_annotators(reversed(names), 5, 0.5) == half and judge_annotators(names, 6, 0.5) != half
    assert judge_annotators(names, 5, 0.1) < half


@pytest.mark.parametrize("share", [1e-9, 0.5, 1 - 1e-9])
def test_each_side_has_an_annotator(share):
    sizes = {len(judge_annotators(["1", "2", "3"], seed, share)) for seed in range(50)}
    assert sizes == ({1} if share < 0.1 else {2} if share > 0.9 else {1, 2})
    for names in (["given"], ["1", "reviewer"], []):
        with pytest.raises(BadInput, match="keeps a share of the annotators for the judge"):
            judge_annotators(names, 5, share)
