"""Similarity join of sets by Jaccard similarity: exact, without comparing all pairs.

Two sets of n and m members are alike if they share 4/9 of n + m members or more, a Jaccard similarity of 4/5. So a set may
miss at most (5 n - 4 m) / 9 of its members in the other: its budget. With all members in one order, the rarest first, two
alike sets have a first common member, and each pays for its members before that one. Only the few members within the budget
need a look-up (prefix filtering; Chaudhuri et al. 2006, "A primitive operator for similarity joins in data cleaning"; Xiao
et al. 2008, "Efficient similarity joins for near duplicate detection").

Thousands of sets of one template share their first common member. Within such a list the join recurses on the remaining
members: they are reordered by their frequency in the list, members that always occur together are merged into one weight,
and payments carry over. Sets of one group are not compared again.
"""

from dataclasses import dataclass

import numpy as np

from components.statistics.groups import Groups

NEAR = 4 / 5  # Jaccard similarity from which on two sets are alike
SHORT = 32  # lists of up to this many sets are compared pairwise
CHUNK = 1 << 14  # pairs compared at a time


@dataclass(frozen=True)
class Part:
    """R of the sets, and E entries: their members that may still be common. Entries are sorted by set."""

    sets: np.ndarray  # int [R], indices of the sets
    paid: np.ndarray  # int [R], members of each that are already known to be unshared
    row: np.ndarray  # int [E], index in `sets`
    member: np.ndarray  # int [E]
    weight: np.ndarray  # int [E], how many members this one stands for; the same for the same member

    def of(self, keep: np.ndarray) -> "Part":
        """The rows that mask [R] keeps."""
        entries = keep[self.row]
        places = np.cumsum(keep, dtype=np.int32) - 1
        row = places[self.row[entries]]
        return Part(self.sets[keep], self.paid[keep], row, self.member[entries], self.weight[entries])

    def behind(self, entries: np.ndarray, before: np.ndarray) -> "Part":
        """The rows of `entries`, int [L], each from that entry on; `before`, int [E], is what they pay for earlier ones."""
        rows = self.row[entries]
        lengths = np.searchsorted(self.row, rows, side="right") - entries
        starts = np.cumsum(lengths) - lengths
        chosen = np.arange(lengths.sum()) + np.repeat(entries - starts, lengths)
        row = np.repeat(np.arange(len(rows), dtype=np.int32), lengths)
        member = np.unique(self.member[chosen], return_inverse=True)[1]
        return Part(self.sets[rows], before[entries], row, member, self.weight[chosen])

    def merged(self) -> "Part":
        """Merge members that occur in the same sets; number them from the rarest on and sort each row in that order."""
        count = np.bincount(self.member)
        weight = np.zeros_like(count)
        weight[self.member] = self.weight
        # A sum of random numbers hashes the sets of a member: among 10 million it collides once in 100,000 runs.
        drawn = np.random.default_rng(0).integers(0, 2**64, len(self.sets), np.uint64)
        mark = np.zeros(len(count), np.uint64)
        np.add.at(mark, self.member, drawn[self.row])
        _, first, kind = np.unique(mark, return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(count[first], kind="stable")] = np.arange(len(first))
        kind = rank[kind]
        weight = np.bincount(kind, weight).astype(np.int32)
        stands = np.zeros(len(count), bool)
        stands[first] = True
        stands = stands[self.member]
        code = self.row[stands] * np.int64(len(rank)) + kind[self.member[stands]]
        code.sort()
        row = (code // max(1, len(rank))).astype(np.int32)
        member = (code % max(1, len(rank))).astype(np.int32)
        return Part(self.sets, self.paid, row, member, weight[member])


class SimilarityJoin:
    """Joins the `groups` of alike sets. The sets are int `member` [M], concatenated, `size` [N] of each, no member twice in
    a set; an empty set is alike to none."""

    def __init__(self, member: np.ndarray, size: np.ndarray, groups: Groups):
        from scipy.sparse import csr_array

        self.size, self.groups = size, groups
        row = np.repeat(np.arange(len(size), dtype=np.int32), size)
        # A member of a single set is never shared: it only counts in sizes.
        common = np.bincount(member) > 1
        kept = common[member]
        row, member = row[kept], (np.cumsum(common, dtype=np.int32) - 1)[member[kept]]
        lengths = np.bincount(row, minlength=len(size))
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        self.common = csr_array((np.ones(len(member), np.int16), member, ends), (len(size), max(1, common.sum())))
        part = Part(np.arange(len(size)), size - lengths, row, member, np.ones(len(member), np.int32))
        self._join(part.of(size > 0))

    def _join(self, part: Part) -> None:
        """Join the alike sets of a part, by its remaining members."""
        part = self._paying(part)
        if len(part.sets) < 2 or self.groups.one(part.sets):
            return
        part = part.merged()
        if self._join_by_what_all_have(part):
            return
        total = np.cumsum(part.weight) - part.weight
        begins = np.searchsorted(part.row, np.arange(len(part.sets)))
        before = total + (part.paid - np.append(total, 0)[begins])[part.row]
        entries = np.flatnonzero(before <= self._budgets(part)[part.row])
        entries = entries[np.argsort(part.member[entries], kind="stable")]
        starts = np.flatnonzero(np.diff(part.member[entries], prepend=-1))
        lengths = np.diff(starts, append=len(entries))
        short = np.repeat((lengths > 1) & (lengths <= SHORT), lengths)
        self._compare(part, before, entries[short])
        for start, length in zip(starts[lengths > SHORT], lengths[lengths > SHORT], strict=True):
            those = entries[start : start + length]
            if not self.groups.one(part.sets[part.row[those]]):
                self._join(part.behind(those, before))

    def _budgets(self, part: Part) -> np.ndarray:
        """Budget of each set of a part, int [R]: members it may miss in any alike set of the part."""
        size = self.size[part.sets]
        return (5 * size - 4 * np.maximum(size.min(), -(-4 * size // 5))) // 9

    def _paying(self, part: Part) -> Part:
        """The part after sets have paid for members that no other set has, without sets over their budget."""
        while len(part.sets):
            alone = (np.bincount(part.member) == 1)[part.member]
            paid = part.paid + np.bincount(part.row[alone], part.weight[alone], len(part.sets)).astype(np.int64)
            part = Part(part.sets, paid, part.row[~alone], part.member[~alone], part.weight[~alone])
            able = paid <= self._budgets(part)
            if able.all():
                break
            part = part.of(able)
        return part

    def _join_by_what_all_have(self, part: Part) -> bool:
        """Join the sets that are alike by the members common to all of a part; returns whether nothing is left to join."""
        everywhere = (np.bincount(part.member) == len(part.sets))[part.member]
        common = part.weight[everywhere & (part.row == 0)].sum()
        size = self.size[part.sets]
        smallest = int(np.argmin(size))
        alike = part.sets[9 * common >= 4 * (size + size[smallest])]
        self.groups.join(alike, np.full(len(alike), part.sets[smallest]))
        return bool(everywhere.all()) or self.groups.one(part.sets)

    def _compare(self, part: Part, before: np.ndarray, entries: np.ndarray) -> None:
        """Compare all pairs of sets of `entries`, int [F], with the same member; entries of one member are consecutive."""
        member = part.member[entries]
        for step in range(1, SHORT):
            met = np.flatnonzero(member[step:] == member[:-step])
            if not len(met):
                return
            one, other = entries[met], entries[met + step]
            left, right = part.sets[part.row[one]], part.sets[part.row[other]]
            new = 9 * before[one] <= 5 * self.size[left] - 4 * self.size[right]
            new &= 9 * before[other] <= 5 * self.size[right] - 4 * self.size[left]
            new[new] = self.groups.firsts(left[new]) != self.groups.firsts(right[new])
            pairs = np.unique(left[new] * len(self.size) + right[new])
            for at in range(0, len(pairs), CHUNK):
                left, right = np.divmod(pairs[at : at + CHUNK], len(self.size))
                shared = self.common[left].multiply(self.common[right]).sum(axis=1)
                alike = 9 * shared >= 4 * (self.size[left] + self.size[right])
                self.groups.join(left[alike], right[alike])
