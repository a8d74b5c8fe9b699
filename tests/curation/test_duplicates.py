"""Near-duplicates: what is found, what is not, and that thousands of like clips stay cheap."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from components.curation.duplicates import BITS, NEAR, find_duplicates, join, near_pairs


def hex_of(bits: np.ndarray) -> str:
    return np.packbits(bits).tobytes().hex()


def some(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, BITS)) < 0.5


def flipped(bits: np.ndarray, count: int, seed: int = 1) -> np.ndarray:
    changed = bits.copy()
    changed[np.random.default_rng(seed).choice(BITS, count, replace=False)] ^= True
    return changed


def test_groups_copies_and_mirrors():
    unlike = some(20)
    plain = [*unlike[:5], flipped(unlike[1], 20), unlike[10], flipped(unlike[1], 30, seed=2)]
    turned = [*unlike[10:15], *unlike[16:19]]
    turned[6] = unlike[0]  # clip 6 is clip 0 turned about: each one's mirror image is the other
    found = find_duplicates([hex_of(bits) for bits in plain], [hex_of(bits) for bits in turned])
    assert [group["duplicate_of"] for group in found] == [None, None, None, None, None, 1, None, 1]
    assert [group["copy"] for group in found] == [0, 0, 0, 0, 0, 1, 0, 2]
    assert [group["mirror_of"] for group in found] == [None] * 6 + [0, None]


def test_clips_without_detail_are_in_no_group():
    text = hex_of(some(1)[0])
    other = hex_of(some(1, seed=5)[0])
    found = find_duplicates([None, text, None, text], [None, other, None, other])
    assert [group["duplicate_of"] for group in found] == [None, None, None, 1]
    assert find_duplicates([None, None], [None, None])[1] == {"duplicate_of": None, "copy": 0, "mirror_of": None}


def test_a_clip_that_is_its_own_mirror_image_mirrors_nothing():
    text = hex_of(some(1)[0])
    assert [group["mirror_of"] for group in find_duplicates([text, text], [text, text])] == [None, None]


@given(st.integers(0, 2**32), st.integers(0, 33))
@settings(max_examples=30, deadline=None)
def test_all_that_differ_little_meet(seed, bits):
    """13% of bits, which is what a crop of 5% costs at most: found among 200 others, and nothing else is."""
    clips = some(200, seed)
    clips[77] = flipped(clips[5], bits, seed)
    assert near_pairs(clips).tolist() == [[5, 77]]


def test_no_pair_is_farther_apart_than_near():
    base = some(1)[0]
    clips = np.stack([flipped(base, count, seed=count) for count in range(0, 128, 4)])
    pairs = near_pairs(clips)
    assert len(pairs) and all((clips[a] != clips[b]).mean() <= NEAR for a, b in pairs)


def test_thousands_of_the_same_clip_are_linear():
    """All with all would be 50 million comparisons; of the same hash and of nearly the same."""
    clips = np.repeat(some(1), 10_000, axis=0)
    assert near_pairs(clips).tolist() == [[n, n + 1] for n in range(9_999)]
    clips[np.arange(3_000), np.arange(3_000) % 9] ^= True
    clips[np.arange(3_000), np.arange(3_000) % 101 + 9] ^= True
    pairs = near_pairs(clips)
    assert len(pairs) < 300_000 and set(join(10_000, pairs)) == {0}


def test_groups_are_transitive_and_named_by_the_first():
    assert join(6, np.array([[1, 3], [3, 5], [2, 4]])) == [0, 1, 2, 1, 2, 1]
    assert join(2, np.empty((0, 2), int)) == [0, 1]
