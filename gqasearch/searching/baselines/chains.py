"""Many walks over partitions of one layer at once, one proposed swap or move of each at a time.

Hill-climbing and annealing differ from each other only in which proposals they take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from gqasearch.budget import Budget
from gqasearch.group_errors import GroupErrors, PairwiseErrors
from gqasearch.pairwise import FloatArray, IntArray
from gqasearch.searching.operators import random_partition
from gqasearch.searching.walk import BoolArray, Walk


class PairwiseChains(Walk):
    """N partitions under pairwise errors: a delta of every one of them in a few array operations.

    ``inner``: I, the summed distances inside every group, (N, G); see the walk.
    """

    def __init__(self, distances: FloatArray, labels: IntArray, budget: Budget) -> None:
        super().__init__(distances, labels, budget)
        self._rows: IntArray = np.arange(len(labels))
        self.inner = self._inner_sums(self._rows)

    def swap_delta(self, first: IntArray, second: IntArray) -> FloatArray:
        """Change of every error, (N,), when these heads, (N,) each, change places; inf inside a group."""
        rows, sums, sizes = self._rows, self.sums, self.sizes
        one, two = self.labels[rows, first], self.labels[rows, second]
        apart = self.distances[first, second]
        in_one = (sums[rows, second, one] - sums[rows, first, one] - apart) / sizes[rows, one]
        in_two = (sums[rows, first, two] - sums[rows, second, two] - apart) / sizes[rows, two]
        return np.where(one == two, np.inf, in_one + in_two)

    def move_delta(self, heads: IntArray, groups: IntArray) -> FloatArray:
        """Change of every error, (N,), when these heads go to these groups; inf where the bounds forbid it."""
        rows, own = self._rows, self.labels[self._rows, heads]
        size, left, taken = self.sizes[rows, own], self.inner[rows, own], self.inner[rows, groups]
        new = self.sizes[rows, groups]
        leaving = (left - self.sums[rows, heads, own]) / np.maximum(size - 1, 1) - left / size
        entering = (taken + self.sums[rows, heads, groups]) / (new + 1) - taken / new
        allowed = (own != groups) & (size > self.smallest) & (new < self.largest)
        return np.where(allowed, leaving + entering, np.inf)

    def move(self, rows: IntArray, heads: IntArray, groups: IntArray) -> None:
        own = self.labels[rows, heads]
        self.inner[rows, own] -= self.sums[rows, heads, own]
        self.inner[rows, groups] += self.sums[rows, heads, groups]
        super().move(rows, heads, groups)


class SetChains:
    """N partitions under any errors; a delta asks for the errors of the two groups it would make."""

    def __init__(self, errors: GroupErrors, labels: IntArray, budget: Budget) -> None:
        self.labels = labels.copy()
        self._errors = errors
        self._budget = budget
        counts = (labels.max(axis=1) + 1).tolist()
        self._groups: list[list[tuple[int, ...]]] = [[()] * count for count in counts]
        self._known = [[0.0] * count for count in counts]
        for row, count in enumerate(counts):
            for group in range(count):
                self._refresh(row, group)

    def errors(self, rows: IntArray) -> FloatArray:
        """Error of each of these partitions, (n,)."""
        return np.array([sum(self._known[row]) for row in rows.tolist()])

    def swap_delta(self, first: IntArray, second: IntArray) -> FloatArray:
        """As that of pairwise chains."""
        pairs = zip(first.tolist(), second.tolist(), strict=True)
        return np.array([self._swap_one(row, one, two) for row, (one, two) in enumerate(pairs)])

    def move_delta(self, heads: IntArray, groups: IntArray) -> FloatArray:
        """As that of pairwise chains."""
        pairs = zip(heads.tolist(), groups.tolist(), strict=True)
        return np.array([self._move_one(row, head, group) for row, (head, group) in enumerate(pairs)])

    def swap(self, rows: IntArray, first: IntArray, second: IntArray) -> None:
        """Heads ``first[k]`` and ``second[k]`` of partition ``rows[k]`` change places."""
        one, two = self.labels[rows, first], self.labels[rows, second]
        self.labels[rows, first], self.labels[rows, second] = two, one
        self._refresh_all(rows, one, two)

    def move(self, rows: IntArray, heads: IntArray, groups: IntArray) -> None:
        """Head ``heads[k]`` of partition ``rows[k]`` goes to group ``groups[k]``."""
        own = self.labels[rows, heads]
        self.labels[rows, heads] = groups
        self._refresh_all(rows, own, groups)

    def _swap_one(self, row: int, first: int, second: int) -> float:
        one, two = self.labels[row, first], self.labels[row, second]
        if one == two:
            return np.inf
        return self._change(row, one, {first}, {second}) + self._change(row, two, {second}, {first})

    def _move_one(self, row: int, head: int, group: int) -> float:
        own = self.labels[row, head]
        sizes = len(self._groups[row][own]), len(self._groups[row][group])
        if own == group or sizes[0] <= self._budget.smallest_group or sizes[1] >= self._budget.largest:
            return np.inf
        return self._change(row, own, {head}, set()) + self._change(row, group, set(), {head})

    def _change(self, row: int, group: int, leave: set[int], enter: set[int]) -> float:
        """What a group's error changes by when these heads leave it and these enter."""
        heads = tuple(sorted((set(self._groups[row][group]) - leave) | enter))
        return self._errors.group_error(heads) - self._known[row][group]

    def _refresh_all(self, rows: IntArray, one: IntArray, two: IntArray) -> None:
        for row, *groups in zip(rows.tolist(), one.tolist(), two.tolist(), strict=True):
            for group in groups:
                self._refresh(row, group)

    def _refresh(self, row: int, group: int) -> None:
        """Read a group from the labels."""
        heads = tuple(np.flatnonzero(self.labels[row] == group).tolist())
        self._groups[row][group] = heads
        self._known[row][group] = self._errors.group_error(heads)


Chains: TypeAlias = PairwiseChains | SetChains


def make_chains(errors: GroupErrors, labels: IntArray, budget: Budget) -> Chains:
    """Chains from these partitions, (N, H); every label below the number of groups must be in use."""
    if isinstance(errors, PairwiseErrors):
        return PairwiseChains(errors.distances, labels, budget)
    return SetChains(errors, labels, budget)


def random_labels(chains: int, budget: Budget, rng: np.random.Generator) -> IntArray:
    """Random partitions of one layer, (N, H)."""
    return np.array([random_partition(budget.counts[0], budget, rng).labels for _ in range(chains)], dtype=np.int64)


@dataclass(frozen=True)
class Proposals:
    """One swap or one move for each of N chains in each of T steps.

    ``moving``: (T,), which steps are moves. ``heads`` go to ``groups`` in these and change places with ``others``
    in the rest, (T, N) each.
    """

    moving: BoolArray
    heads: IntArray
    others: IntArray
    groups: IntArray

    @classmethod
    def draw(cls, steps: int, chains: int, budget: Budget, moves: bool, rng: np.random.Generator) -> Proposals:
        """Heads and groups at random; half of the steps are moves where ``moves`` and the size bounds allow any."""
        moves = moves and budget.smallest_group < budget.largest
        shape = (steps, chains)
        moving = rng.random(steps) < 0.5 if moves else np.zeros(steps, dtype=np.bool_)
        heads, others = rng.integers(budget.num_heads, size=(2, *shape))
        return cls(moving, heads, others, rng.integers(budget.counts[0], size=shape))

    def deltas(self, chains: Chains, step: int) -> FloatArray:
        """What the proposals of this step would change, (N,); inf for those that are no change or forbidden."""
        if self.moving[step]:
            return chains.move_delta(self.heads[step], self.groups[step])
        return chains.swap_delta(self.heads[step], self.others[step])

    def take(self, chains: Chains, step: int, rows: IntArray) -> None:
        """Take the proposals of this step in these chains."""
        if self.moving[step]:
            chains.move(rows, self.heads[step, rows], self.groups[step, rows])
        else:
            chains.swap(rows, self.heads[step, rows], self.others[step, rows])
