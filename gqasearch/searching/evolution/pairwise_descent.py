"""Steepest descent of many individuals at once, for pairwise errors: the memetic part of the evolution.

What a swap or a move gains depends on the two groups it touches and on nothing else. Computing all deltas
of a batch anew is cheaper than looking known ones up, but only those between two groups that no
individual had before are news, and only they count as evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gqasearch.grouping import Grouping
from gqasearch.pairwise import FloatArray, IntArray
from gqasearch.searching.record import Individual, Record
from gqasearch.searching.walk import LEAST_GAIN, Walk


class PairwiseDescent:
    """Takes individuals of a one-layer problem to better neighbours, a swap or a move away."""

    def __init__(self, record: Record, distances: FloatArray) -> None:
        self._record = record
        self._distances = distances
        # A random word per head; the words of a group, or of two, add up to its key (Zobrist hashing).
        self._words = np.random.default_rng(0).integers(2**64, size=len(distances), dtype=np.uint64)
        # Keys of the pairs of groups that were looked at.
        self._known: set[int] = set()

    def descend(self, starts: Sequence[Individual], steps: int) -> list[Individual]:
        """Where the descents from ``starts`` end, after at most ``steps`` steps each; none is worse than its start."""
        if not starts:
            return []
        labels = np.array([start.grouping.layers[0].labels for start in starts], dtype=np.int64)
        walk = Walk(self._distances, labels, self._record.problem.budget)
        active: IntArray = np.arange(len(starts))
        one, two = np.triu_indices(walk.sizes.shape[1], k=1)
        pairs = np.broadcast_to(one, (len(active), len(one))), np.broadcast_to(two, (len(active), len(two)))
        for _ in range(steps):
            if not len(active) or not self._charge(walk, active, *pairs):
                break
            active, touched = walk.step(active, LEAST_GAIN * walk.errors(active))
            pairs = _pairs_with(touched, walk.sizes.shape[1])
        ends = self._record.evaluate([Grouping.from_labels([row]) for row in walk.labels.tolist()])
        # The limit on evaluations may leave no room for an end.
        return [*ends, *starts] if len(ends) < len(starts) else ends

    def _charge(self, walk: Walk, rows: IntArray, one: IntArray, two: IntArray) -> bool:
        """Count the deltas between groups ``one`` and ``two``, (n, k), of every row, unless they were looked at before.

        False, and nothing counted, where the limit forbids them.
        """
        words = np.zeros(walk.sizes[rows].shape, dtype=np.uint64)
        np.add.at(words, (np.arange(len(rows))[:, None], walk.labels[rows]), self._words[None, :])
        first, second = np.take_along_axis(words, one, axis=1), np.take_along_axis(words, two, axis=1)
        # Symmetric, and no sum of words: groups {a, b} and {c} are no other groups {a} and {b, c}.
        keys = first * second + (first ^ second)
        counted = zip(keys.ravel().tolist(), walk.deltas_between(rows, one, two).ravel().tolist(), strict=True)
        new = {key: count for key, count in counted if count and key not in self._known}
        if not self._record.charge(sum(new.values())):
            return False
        self._known.update(new)
        return True


def _pairs_with(touched: IntArray, groups: int) -> tuple[IntArray, IntArray]:
    """Every pair of groups with a touched one in it, as two arrays (n, 2 G): what a step made new."""
    return np.repeat(touched, groups, axis=1), np.tile(np.arange(groups), (len(touched), 2))
