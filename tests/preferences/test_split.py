"""No prompt on two sides of a split, however it is written."""

import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.config.params import SplitParams
from components.preferences.near import near_groups
from components.preferences.split import SPLITS, prompt_key, split_of, split_prompts
from tests.preferences.near import near_and_far

HASH = SplitParams(scheme="hash", seed=5, validation=0.1, test=0.3)
DEAL = SplitParams(scheme="round_robin", seed=5, validation=0.1, test=0.3)
PROMPTS = st.text(st.characters(codec="utf-8"), min_size=1)
SPACES = st.text(st.sampled_from(" \t\n\u00a0\u3000"), min_size=1, max_size=3)


@st.composite
def rewritten(draw):
    """A prompt and the same prompt in other white space, case and Unicode form."""
    prompt = draw(PROMPTS)
    other = draw(SPACES).join(prompt.split()) if prompt.split() else prompt
    other = unicodedata.normalize(draw(st.sampled_from(["NFC", "NFD"])), other)
    other = draw(st.sampled_from([str, str.casefold, ascii_upper]))(other)
    return prompt, draw(SPACES) + other + draw(SPACES)


def ascii_upper(text: str) -> str:
    return "".join(char.upper() if char.isascii() else char for char in text)


@given(pair=rewritten(), seed=st.integers(0, 99))
def test_a_rewritten_prompt_stays_in_its_split(pair, seed):
    first, second = pair
    assert prompt_key(first) == prompt_key(second)
    split = HASH.model_copy(update={"seed": seed})
    assert split_of(first, split) == split_of(second, split)


@given(pairs=st.lists(rewritten(), min_size=1, max_size=20), scheme=st.sampled_from([HASH, DEAL]))
def test_no_prompt_crosses(pairs, scheme):
    split = split_prompts([prompt for pair in pairs for prompt in pair], scheme)
    assert all(split[first] == split[second] for first, second in pairs)
    sides = {name: {prompt_key(prompt) for prompt, side in split.items() if side == name} for name in SPLITS}
    assert not any(sides[one] & sides[other] for one in SPLITS for other in SPLITS if one != other)


def test_words_that_matter_keep_prompts_apart():
    assert prompt_key("a red circle") != prompt_key("a redcircle")
    assert prompt_key("Straße") == prompt_key("STRASSE")
    assert prompt_key("caf\u00e9") == prompt_key("cafe\u0301") != prompt_key("cafe")


@given(st.text(st.characters(max_codepoint=127)))
def test_the_short_way_of_ascii_gives_the_same_key(prompt):
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", prompt).casefold())
    assert prompt_key(prompt) == " ".join(unicodedata.normalize("NFC", folded).split())


def test_shares_in_the_long_run():
    counts = Counter(split_of(f"prompt {index}", HASH) for index in range(5000))
    assert counts["test"] / 5000 == pytest.approx(0.3, abs=0.03)
    assert counts["validation"] / 5000 == pytest.approx(0.1, abs=0.02)


def test_pinned():
    """A change of the hash would move test prompts into training under models that exist."""
    prompts = ["a red circle moving up", "a blue cross moving slowly to the left", "a green square moving down"]
    assert [split_of(prompt, HASH) for prompt in prompts] == PINNED


PINNED = ["test", "test", "validation"]


def test_hash_does_not_depend_on_other_prompts():
    alone = split_of("a red circle", HASH)
    assert split_prompts([f"prompt {index}" for index in range(50)] + ["a red circle"], HASH)["a red circle"] == alone


@given(prompts=st.lists(PROMPTS, min_size=3, max_size=12, unique_by=prompt_key))
def test_dealing_leaves_no_split_empty(prompts):
    groups = len(set(near_groups(sorted(prompt_key(prompt) for prompt in prompts))))
    sides = split_prompts(prompts, DEAL)
    assert len(set(sides.values())) == min(3, groups)
    assert split_prompts(prompts[::-1], DEAL) == split_prompts(prompts, DEAL)


def test_dealing_needs_all_prompts():
    with pytest.raises(ValueError, match="split_prompts"):
        split_of("a red circle", DEAL)


@given(first=near_and_far(), later=near_and_far())
@settings(deadline=None)
def test_what_is_held_out_stays_held_out(first, later):
    """Whatever prompts come later, a test prompt stays one, and a validation prompt does not go into training."""
    before, after = split_prompts(first, HASH), split_prompts(first + later, HASH)
    assert all(SPLITS.index(after[prompt]) >= SPLITS.index(before[prompt]) for prompt in first)
