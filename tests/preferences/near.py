"""Prompts that are nearly others, and the plain definition of what near-duplicates are."""

from itertools import combinations

from hypothesis import strategies as st

from components.preferences.near import ARTICLES, singular, tokens, words

WORDS = ["a", "cat", "dogs", "runs", "over", "the", "hill", "at", "dawn", "猫", "草地", "に"]
FRAME = [f"frame{place}" for place in range(24)]


@st.composite
def near_and_far(draw) -> list[str]:
    """Prompts of words and characters, some of them one word away from another, short and long, with and without a frame."""
    prompts = []
    frame = draw(st.sampled_from([[], FRAME[:12], FRAME]))
    for _ in range(draw(st.integers(1, 8))):
        parts = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=60)) + frame
        prompts.append(" ".join(parts))
        for _ in range(draw(st.integers(0, 2))):
            changed = list(parts)
            changed[draw(st.integers(0, len(parts) - 1))] = draw(st.sampled_from(["owl", "sea", "cat", "狗"]))
            prompts.append(draw(st.sampled_from([" ", "  ", ", "])).join(changed) + draw(st.sampled_from(["", ".", "!"])))
    return prompts


def triples(key: str) -> set[tuple[str, ...]]:
    padded = ["", *tokens(key), ""]
    return set(zip(padded, padded[1:], padded[2:], strict=False))


def near(one: str, other: str) -> bool:
    """The two rules, on prompts as prompt_key has them, in the form that `tokens` takes."""
    first, second = triples(one), triples(other)
    shared, all_of_both = len(first & second), len(first | second)
    return (all_of_both > 0 and 5 * shared >= 4 * all_of_both) or bool(word_forms(one) & word_forms(other))


def word_forms(key: str) -> set[tuple]:
    found = words(key)
    bag = sorted(singular(word) for word in found if word not in ARTICLES) or sorted(found)
    return {("bag", *bag), ("order", *tokens(key))} if found else {("signs", key)}


def plain_groups(keys: list[str]) -> list[int]:
    """near_groups by comparing all with all."""
    first = list(range(len(keys)))
    for one, other in combinations(range(len(keys)), 2):
        if near(keys[one], keys[other]):
            low, high = sorted((first[one], first[other]))
            first = [low if place == high else place for place in first]
    return first
