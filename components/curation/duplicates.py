"""Near-duplicates by perceptual hash: banded look-up, no comparison of all with all.

Two clips are near-duplicates when their hashes differ in few of their 256 bits. Unrelated clips differ in half of them, 36%
at the least among 1,000 pairs. A copy re-encoded or cropped by 5% differs in 13% at most, cropped at one corner in 26%.
Sampled bits select the clips to compare. Each of TABLES tables takes SAMPLE bits, the same of every clip, and clips that
agree in all of them are compared in full. At 13% of bits different a pair meets in some table with a probability of 0.9998;
at 20%, 0.84.
"""

from collections.abc import Callable, Iterator

import numpy as np

from components.statistics.groups import Groups

TABLES, SAMPLE = 64, 16
NEAR = 0.25  # share of bits that may differ
WINDOW = 32  # clips of one bucket are compared with the next WINDOW of it: thousands of like clips stay linear
BITS = 256


def find_duplicates(phash: list[str | None], mirrored: list[str | None]) -> list[dict[str, int | None]]:
    """For each clip: `duplicate_of`, the first of its group (None for that one and for clips alone), `copy`, how many of
    its group come before it, and `mirror_of`, the first clip that it mirrors. Positions in the list.

    Hashes are hex of BITS bits or None (no detail: in no group). Groups are transitive. A mirror image is not a duplicate.
    """
    hashes = [
        (index, text, turned)
        for index, (text, turned) in enumerate(zip(phash, mirrored, strict=True))
        if text is not None and turned is not None
    ]
    known = [index for index, _, _ in hashes]
    found: list[dict[str, int | None]] = [{"duplicate_of": None, "copy": 0, "mirror_of": None} for _ in phash]
    if not known:
        return found
    count = len(known)
    plain, turned = to_bits([text for _, text, _ in hashes]), to_bits([text for _, _, text in hashes])
    groups = Groups(count)
    for left, right in near_pairs(plain, lambda left, right: groups.firsts(left) != groups.firsts(right)):
        groups.join(left, right)
    group = groups.firsts(np.arange(count))
    seen: dict[int, int] = {}
    for index, first in zip(known, group.tolist(), strict=True):
        copies = seen.get(first, 0)
        found[index]["copy"], seen[first] = copies, copies + 1
        if known[first] != index:
            found[index]["duplicate_of"] = known[first]

    # The mirror images stand behind the clips: a pair of one of each is a clip and what it mirrors. A clip that is its own
    # mirror image, or of the same group, mirrors nothing new.
    def mirrors(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return ((left < count) != (right < count)) & (group[left % count] != group[right % count])

    least = np.full(count, count)
    for left, right in near_pairs(np.concatenate([plain, turned]), mirrors):
        one, other = left % count, right % count
        np.minimum.at(least, np.maximum(one, other), np.minimum(one, other))
    for place in np.flatnonzero(least < count).tolist():
        found[known[place]]["mirror_of"] = known[group[least[place]]]
    return found


Wanted = Callable[[np.ndarray, np.ndarray], np.ndarray]


def near_pairs(bits: np.ndarray, wanted: Wanted) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows of `bits`, bool [N, BITS], at most NEAR apart, of those that meet: int [P] and [P], the lower one in
    the first; a pair may come several times. Only pairs of which `wanted`, a mask of such [P] and [P], holds are compared.

    Equal rows meet as a chain of each and the next, so that a thousand of the same clip are a thousand pairs.
    """
    width = bits.shape[1]
    packed = np.packbits(bits, axis=1).view(np.uint64)  # [N, BITS / 64]
    order = np.lexsort(packed.T)  # stable: equal rows in their own order
    equal = (packed[order[1:]] == packed[order[:-1]]).all(axis=1)
    left, right = order[:-1][equal], order[1:][equal]
    asked = wanted(left, right)
    yield left[asked], right[asked]
    firsts = np.sort(order[np.r_[True, ~equal]])
    drawn = np.random.default_rng(0)
    powers = 1 << np.arange(SAMPLE)
    for _ in range(TABLES):
        keys = bits[:, drawn.choice(width, SAMPLE, replace=False)][firsts] @ powers
        by_key = np.argsort(keys, kind="stable")
        order, ordered = firsts[by_key], keys[by_key]
        for step in range(1, WINDOW + 1):
            meet = np.flatnonzero(ordered[step:] == ordered[:-step])
            if not len(meet):
                break
            left, right = order[meet], order[meet + step]
            asked = wanted(left, right)
            left, right = left[asked], right[asked]
            near = np.bitwise_count(packed[left] ^ packed[right]).sum(axis=1) <= NEAR * width
            yield left[near], right[near]


def to_bits(hashes: list[str]) -> np.ndarray:
    """Hex texts to bool [N, BITS]."""
    return np.unpackbits(np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), -1), axis=1).astype(
        bool
    )
