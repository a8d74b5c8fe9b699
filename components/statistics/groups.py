"""Groups of things of which pairs belong together; a group is all that is connected by such pairs."""

import numpy as np


class Groups:
    """Which of `count` things belong together, when pairs of them do."""

    def __init__(self, count: int):
        self._parent = np.arange(count)

    def firsts(self, things: np.ndarray) -> np.ndarray:
        """For each of `things`, int [T], the first one of its group."""
        roots = self._parent[things]
        while ((above := self._parent[roots]) != roots).any():
            roots = above
        self._parent[things] = roots
        return roots

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        """Put left[k] and right[k], int [P], into one group."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        roots, places = np.unique(self.firsts(np.concatenate([left, right])), return_inverse=True)
        if len(roots) < 2:
            return
        ends = np.split(places, 2)
        graph = coo_array((np.ones(len(left), np.int8), tuple(ends)), (len(roots), len(roots)))
        labels = connected_components(graph, directed=False)[1]
        self._parent[roots] = roots[np.unique(labels, return_index=True)[1][labels]]

    def one(self, things: np.ndarray) -> bool:
        """Whether all of `things` are of one group."""
        roots = self.firsts(things)
        return bool((roots == roots[0]).all())
