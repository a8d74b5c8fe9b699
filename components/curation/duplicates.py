"""Near-duplicates by perceptual hash: banded look-up, no comparison of all with all.

Two clips are near-duplicates when their hashes differ in few of their 256 bits. Unrelated clips differ in half of them,
36% at the least among 1,000 pairs; a copy re-encoded or cropped by 5% in 13% at most, by 5% off one corner in 26%. Which
clips to compare is found by sampling bits: each of TABLES tables takes SAMPLE bits, the same of every clip, and clips
that agree in all of them are compared in full. At 13% of bits different a pair meets in some table with a probability of
0.9998; at 20%, 0.84.
"""

import numpy as np

TABLES, SAMPLE = 64, 16
NEAR = 0.25  # share of bits that may differ
WINDOW = 32  # clips of one bucket are compared with the next WINDOW of it: thousands of like clips stay linear
BITS = 256


def find_duplicates(phash: list[str | None], mirrored: list[str | None]) -> list[dict[str, int | None]]:
    """For each clip: `duplicate_of`, the first of its group (None for that one and for clips alone), `copy`, how many of
    its group come before it, and `mirror_of`, the first clip that it mirrors. Positions in the list.

    Hashes are hex of BITS bits or None (no detail: in no group). Groups are transitive. A mirror image is not a duplicate.
    """
    known = [index for index, text in enumerate(phash) if text is not None]
    found: list[dict[str, int | None]] = [{"duplicate_of": None, "copy": 0, "mirror_of": None} for _ in phash]
    if not known:
        return found
    plain, turned = (to_bits([hashes[index] for index in known]) for hashes in (phash, mirrored))
    group = join(len(known), near_pairs(plain))
    seen: dict[int, int] = {}
    for index, first in zip(known, group, strict=True):
        found[index]["copy"] = seen.get(first, 0)
        seen[first] = found[index]["copy"] + 1
        if known[first] != index:
            found[index]["duplicate_of"] = known[first]
    # The mirror images stand behind the clips: a pair of one of each is a clip and what it mirrors.
    both = near_pairs(np.concatenate([plain, turned]))
    crossing = both[(both[:, 0] < len(known)) & (both[:, 1] >= len(known))]
    for first, second in sorted((min(pair), max(pair)) for pair in (crossing - [0, len(known)]).tolist()):
        # A clip that is its own mirror image, or of the same group, mirrors nothing new.
        if group[first] != group[second] and found[known[second]]["mirror_of"] is None:
            found[known[second]]["mirror_of"] = known[group[first]]
    return found


def near_pairs(bits: np.ndarray) -> np.ndarray:
    """Pairs (i, j), i < j, int [P, 2], of rows of `bits`, bool [N, BITS], at most NEAR apart, of those that meet.

    Equal rows meet as a chain of each and the next, so that a thousand of the same clip are a thousand pairs.
    """
    count, width = bits.shape
    packed = np.packbits(bits, axis=1).view(np.uint64)  # [N, BITS / 64]
    order = np.lexsort(packed.T)  # stable: equal rows in their own order
    equal = (packed[order[1:]] == packed[order[:-1]]).all(axis=1)
    pairs = np.stack([order[:-1][equal], order[1:][equal]], axis=1)
    firsts = np.sort(order[np.r_[True, ~equal]])
    codes = np.empty(0, np.int64)  # a pair (i, j) of `firsts` as i * count + j
    drawn = np.random.default_rng(0)
    powers = 1 << np.arange(SAMPLE)
    for _ in range(TABLES):
        keys = bits[firsts][:, drawn.choice(width, SAMPLE, replace=False)] @ powers
        order = firsts[np.argsort(keys, kind="stable")]
        ordered = np.sort(keys)
        met = [codes]
        for step in range(1, WINDOW + 1):
            meet = np.flatnonzero(ordered[step:] == ordered[:-step])
            if not len(meet):
                break
            left, right = order[meet], order[meet + step]
            near = np.bitwise_count(packed[left] ^ packed[right]).sum(axis=1) <= NEAR * width
            met.append(left[near] * count + right[near])
        codes = np.unique(np.concatenate(met))
    return np.concatenate([pairs, np.stack(np.divmod(codes, count), axis=1)])


def to_bits(hashes: list[str]) -> np.ndarray:
    """Hex texts to bool [N, BITS]."""
    return np.unpackbits(np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), -1), axis=1).astype(
        bool
    )


def join(count: int, pairs: np.ndarray) -> list[int]:
    """The smallest member of each one's group, when `pairs` [P, 2] of `count` things belong together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (count, count))
    labels = connected_components(graph, directed=False)[1]
    return np.unique(labels, return_index=True)[1][labels].tolist()
