"""Near-duplicates: what is found, what is not, and that thousands of like clips stay cheap."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from components.curation.duplicates import BITS, NEAR, find_duplicates, near_pairs
from components.statistics.groups import Groups


def hex_of(bits: np.ndarray) -> str:
    return np.packbits(bits).tobytes().hex()


def some(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, BITS)) < 0.5


def flipped(bits: np.ndarray, count: int, seed: int = 1) -> np.ndarray:
    changed = bits.copy()
    changed[np.random.default_rng(seed).choice(BITS, count, replace=False)] ^= True
    return changed


def pairs_of(clips: np.ndarray) -> list[list[int]]:
    found = near_pairs(clips, lambda left, right: np.ones(len(left), bool))
    return np.unique(np.concatenate([np.stack(pair, axis=1) for pair in found]), axis=0).tolist()


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
    assert pairs_of(clips) == [[5, 77]]


def test_no_pair_is_farther_apart_than_near():
    base = some(1)[0]
    clips = np.stack([flipped(base, count, seed=count) for count in range(0, 128, 4)])
    pairs = pairs_of(clips)
    assert len(pairs) and all((clips[a] != clips[b]).mean() <= NEAR for a, b in pairs)


def test_thousands_of_the_same_clip_are_linear():
    """All with all would be 50 million comparisons; of the same hash and of nearly the same."""
    clips = np.repeat(some(1), 10_000, axis=0)
    assert pairs_of(clips) == [[n, n + 1] for n in range(9_999)]
    clips[np.arange(3_000), np.arange(3_000) % 9] ^= True
    clips[np.arange(3_000), np.arange(3_000) % 101 + 9] ^= True
    compared = 0
    groups = Groups(10_000)

    def wanted(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        nonlocal compared
        apart = groups.firsts(left) != groups.firsts(right)
        compared += apart.sum()
        return apart

    for pair in near_pairs(clips, wanted):
        groups.join(*pair)
    assert compared < 100_000 and groups.one(np.arange(10_000))


def test_a_mirror_image_names_the_first_clip_that_it_mirrors():
    """Three unlike clips are each a mirror image of the fourth and of the fifth, which are copies."""
    unlike = some(8)
    plain = [*unlike[:3], unlike[6], flipped(unlike[6], 9)]
    turned = [flipped(unlike[6], 5), unlike[7], flipped(unlike[6], 12), unlike[0], unlike[1]]
    found = find_duplicates([hex_of(bits) for bits in plain], [hex_of(bits) for bits in turned])
    assert [group["mirror_of"] for group in found] == [None, None, None, 0, 0]
    assert [group["duplicate_of"] for group in found] == [None, None, None, None, 3]


def test_groups_are_transitive_and_named_by_the_first():
    groups = Groups(6)
    groups.join(np.array([3, 3, 2]), np.array([1, 5, 4]))
    assert groups.firsts(np.arange(6)).tolist() == [0, 1, 2, 1, 2, 1]
    groups.join(np.array([], int), np.array([], int))
    assert groups.firsts(np.arange(6)).tolist() == [0, 1, 2, 1, 2, 1]
