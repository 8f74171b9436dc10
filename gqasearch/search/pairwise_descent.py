"""Steepest descent of many individuals at once, for pairwise errors: the memetic part of the evolution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gqasearch.grouping import Grouping
from gqasearch.pairwise import FloatArray, IntArray
from gqasearch.search.record import Individual, Record
from gqasearch.search.walk import Walk

# A step must gain this share of the error, or rounding could send a descent in circles.
LEAST_GAIN = 1e-12


class PairwiseDescent:
    """Takes individuals of a one-layer problem to better neighbours, a swap or a move away.

    Every swap and move whose delta a step computes counts as an evaluation of the record.
    """

    def __init__(self, record: Record, distances: FloatArray) -> None:
        self._record = record
        self._distances = distances

    def __len__(self) -> int:
        return 0  # remembers nothing

    def save(self, length: int) -> str:
        """Nothing: it remembers nothing."""
        return ""

    def load(self, saved: str) -> None:
        """Nothing to take up."""

    def descend(self, starts: Sequence[Individual], steps: int) -> list[Individual]:
        """Where the descents from ``starts`` end, after at most ``steps`` steps each; none is worse than its start."""
        if not starts:
            return []
        labels = np.array([start.grouping.layers[0].labels for start in starts], dtype=np.int64)
        walk = Walk(self._distances, labels, self._record.problem.budget)
        active: IntArray = np.arange(len(starts))
        for _ in range(steps):
            active = self._step(walk, active)
            if not len(active):
                break
        ends = self._record.evaluate([Grouping.from_labels([row]) for row in walk.labels.tolist()])
        # The limit on evaluations may leave no room for an end.
        return [*ends, *starts] if len(ends) < len(starts) else ends

    def _step(self, walk: Walk, rows: IntArray) -> IntArray:
        """The best swap or move of every row that has one that gains; gives back the rows that took it."""
        heads, groups = walk.labels.shape[1], walk.sizes.shape[1]
        swaps, moves = walk.swap_deltas(rows), walk.move_deltas(rows)
        if not self._record.charge(int(np.isfinite(swaps).sum()) // 2 + int(np.isfinite(moves).sum())):
            return rows[:0]
        deltas = np.concatenate([swaps.reshape(len(rows), -1), moves.reshape(len(rows), -1)], axis=1)
        best = deltas.argmin(axis=1)
        gains = -deltas[np.arange(len(rows)), best] > LEAST_GAIN * walk.errors(rows)
        swapping, moving = gains & (best < heads * heads), gains & (best >= heads * heads)
        walk.swap(rows[swapping], *np.divmod(best[swapping], heads))
        walk.move(rows[moving], *np.divmod(best[moving] - heads * heads, groups))
        return np.asarray(rows[gains])
