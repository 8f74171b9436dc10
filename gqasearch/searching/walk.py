"""Many partitions at once, and what every swap and move from them would change, for pairwise errors.

With W_ig the summed distance of head i to group g and I_g the summed distances inside g (every pair once),
the error of a group is I_g / n_g; what a swap or a move changes follows from W, D, I and n of the two
groups it touches, and taking one changes two columns of W. So a delta costs O(1) and a step O(H).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gqasearch.budget import Budget
from gqasearch.pairwise import FloatArray, IntArray

BoolArray = NDArray[np.bool_]

# A step must gain this share of the error, or rounding could send a descent in circles.
LEAST_GAIN = 1e-12


class Walk:
    """N partitions of H heads as labels (N, H) below the largest number of groups G among them.

    ``sums``: W, (N, H, G). ``sizes``: (N, G), 0 for labels that a partition does not use.
    """

    def __init__(self, distances: FloatArray, labels: IntArray, budget: Budget) -> None:
        self.distances = distances
        self.labels = labels.copy()
        self.smallest, self.largest = budget.smallest_group, budget.largest
        member = (labels[:, :, None] == np.arange(int(labels.max(initial=0)) + 1)).astype(np.float64)
        self.sizes = member.sum(axis=1)
        self.sums: FloatArray = distances @ member

    def errors(self, rows: IntArray) -> FloatArray:
        """Error of each of these partitions, (n,)."""
        own = self._own_sums(rows)
        return np.asarray((own / self._own_sizes(rows)).sum(axis=1) / 2)

    def swap_deltas(self, rows: IntArray) -> FloatArray:
        """Change of the error when heads i and j change places, (n, H, H), symmetric; inf inside a group."""
        labels = self.labels[rows]
        # cross[n, i, j]: the summed distance of head i to the group of head j.
        cross = np.take_along_axis(self.sums[rows], labels[:, None, :], axis=2)
        own = np.diagonal(cross, axis1=1, axis2=2)
        # What the group of i gains when j replaces i: sum of j's distances, less i's, less D_ij counted twice.
        half = (cross.transpose(0, 2, 1) - own[:, :, None] - self.distances) / self._own_sizes(rows)[:, :, None]
        deltas = half + half.transpose(0, 2, 1)
        deltas[labels[:, :, None] == labels[:, None, :]] = np.inf
        return np.asarray(deltas)

    def move_deltas(self, rows: IntArray) -> FloatArray:
        """Change of the error when head i goes to group g, (n, H, G); inf where the bounds forbid it."""
        labels, sums, sizes = self.labels[rows], self.sums[rows], self.sizes[rows]
        inner = self._inner_sums(rows)
        own_size, own_inner = self._own_sizes(rows), inner[np.arange(len(rows))[:, None], labels]
        may_leave = own_size > self.smallest
        # A head alone leaves no group behind; it may not leave, and the division must not fail.
        left = (own_inner - self._own_sums(rows)) / np.maximum(own_size - 1, 1) - own_inner / own_size
        may_take = (sizes > 0) & (sizes < self.largest)
        taken = (inner[:, None, :] + sums) / (sizes + 1)[:, None, :] - (inner / np.maximum(sizes, 1))[:, None, :]
        allowed = may_leave[:, :, None] & may_take[:, None, :]
        np.put_along_axis(allowed, labels[:, :, None], False, axis=2)
        return np.where(allowed, left[:, :, None] + taken, np.inf)

    def deltas_between(self, rows: IntArray, one: IntArray, two: IntArray) -> IntArray:
        """How many swaps and moves there are between groups ``one`` and ``two``, (n, k), of these partitions."""
        sizes = self.sizes[rows]
        first, second = np.take_along_axis(sizes, one, axis=1), np.take_along_axis(sizes, two, axis=1)
        swaps = np.where(first * second == 1, 0, first * second)
        given = np.where((first > self.smallest) & (second < self.largest), first, 0)
        taken = np.where((second > self.smallest) & (first < self.largest), second, 0)
        counts = np.where((one == two) | (first == 0) | (second == 0), 0, swaps + given + taken)
        return np.asarray(counts, dtype=np.int64)

    def step(self, rows: IntArray, least: FloatArray | float) -> tuple[IntArray, IntArray]:
        """The best swap or move of every row that has one that gains more than ``least``.

        Gives back the rows that took it, (n,), and the two groups that it touched, (n, 2).
        """
        heads, groups = self.labels.shape[1], self.sizes.shape[1]
        swaps, moves = self.swap_deltas(rows), self.move_deltas(rows)
        deltas = np.concatenate([swaps.reshape(len(rows), -1), moves.reshape(len(rows), -1)], axis=1)
        best = deltas.argmin(axis=1)
        gains = -deltas[np.arange(len(rows)), best] > least
        rows, best = rows[gains], best[gains]
        swapping, moving = best < heads * heads, best >= heads * heads
        swapped = np.divmod(best[swapping], heads)
        moved, taker = np.divmod(best[moving] - heads * heads, groups)
        touched = np.empty((len(rows), 2), dtype=np.int64)
        touched[swapping] = np.stack([self.labels[rows[swapping], head] for head in swapped], axis=1)
        touched[moving] = np.stack([self.labels[rows[moving], moved], taker], axis=1)
        self.swap(rows[swapping], *swapped)
        self.move(rows[moving], moved, taker)
        return rows, touched

    def move(self, rows: IntArray, heads: IntArray, groups: IntArray) -> None:
        """Head ``heads[k]`` of partition ``rows[k]`` goes to group ``groups[k]``; no row twice."""
        old = self.labels[rows, heads]
        column = self.distances[heads]
        self.sums[rows, :, old] -= column
        self.sums[rows, :, groups] += column
        self.sizes[rows, old] -= 1
        self.sizes[rows, groups] += 1
        self.labels[rows, heads] = groups

    def swap(self, rows: IntArray, first: IntArray, second: IntArray) -> None:
        """Heads ``first[k]`` and ``second[k]`` of partition ``rows[k]`` change places; no row twice."""
        taken, given = self.labels[rows, first], self.labels[rows, second]
        self.move(rows, first, given)
        self.move(rows, second, taken)

    def _own_sums(self, rows: IntArray) -> FloatArray:
        """Summed distance of every head to its own group, (n, H)."""
        return np.asarray(self.sums[rows[:, None], np.arange(self.labels.shape[1]), self.labels[rows]])

    def _own_sizes(self, rows: IntArray) -> FloatArray:
        """Size of every head's group, (n, H)."""
        return np.asarray(self.sizes[rows[:, None], self.labels[rows]])

    def _inner_sums(self, rows: IntArray) -> FloatArray:
        """I, (n, G)."""
        member = self.labels[rows][:, :, None] == np.arange(self.sizes.shape[1])
        return np.asarray((self.sums[rows] * member).sum(axis=1) / 2)
