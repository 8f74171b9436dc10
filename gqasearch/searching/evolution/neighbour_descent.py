"""Local descent for objectives of which nothing is known: the memetic part of the evolution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TypeAlias

import numpy as np

from gqasearch.budget import Budget
from gqasearch.group_errors import mask_of
from gqasearch.grouping import LayerGrouping
from gqasearch.searching.operators import exchange, relocate
from gqasearch.searching.record import Individual, Record

Pair: TypeAlias = tuple[int, int, int]


class NeighbourDescent:
    """Goes to better neighbours (a swap or a move away) and remembers where there are none.

    A pair of groups that had no gain in one individual is skipped in every other one that holds both. That
    loses nothing in a sum over groups; for other objectives it is a heuristic that saves evaluations.
    """

    def __init__(self, record: Record, rng: np.random.Generator) -> None:
        self._record = record
        self._rng = rng
        self._settled: set[Pair] = set()

    def descend(self, starts: Sequence[Individual], steps: int) -> list[Individual]:
        """Where the descents from ``starts`` end, after at most ``steps`` steps each; none is worse than its start."""
        return [self._descend(start, steps) for start in starts]

    def _descend(self, start: Individual, steps: int) -> Individual:
        current = start
        for _ in range(steps):
            better = self._better_neighbour(current)
            if better is None:
                break
            current = better
        return current

    def _better_neighbour(self, current: Individual) -> Individual | None:
        """The best neighbour of the first pair of groups, in random order, that has one that dominates."""
        pairs = [
            (index, one, two, pair)
            for index, layer in enumerate(current.grouping)
            for one, two in combinations(range(layer.num_groups), 2)
            if (pair := (index, mask_of(layer.groups[one]), mask_of(layer.groups[two]))) not in self._settled
        ]
        for chosen in self._rng.permutation(len(pairs)).tolist():
            index, one, two, pair = pairs[chosen]
            layers = neighbours_between(current.grouping.layers[index], one, two, self._record.problem.budget)
            best = current
            for neighbour in self._record.evaluate([current.grouping.replace_layer(index, la) for la in layers]):
                if neighbour.dominates(best):
                    best = neighbour
            if best is not current:
                return best
            if self._record.is_full:
                return None
            self._settled.add(pair)
        return None


def neighbours_between(layer: LayerGrouping, one: int, two: int, budget: Budget) -> list[LayerGrouping]:
    """Every partition a swap or a move between the groups ``one`` and ``two`` away, bounds kept."""
    first, second = layer.groups[one], layer.groups[two]
    swaps = [] if len(first) == len(second) == 1 else [exchange(layer, a, b) for a in first for b in second]
    moves = [
        relocate(layer, head, taker)
        for giver, taker in ((one, two), (two, one))
        if len(layer.groups[giver]) > budget.smallest_group and len(layer.groups[taker]) < budget.largest
        for head in layer.groups[giver]
    ]
    return swaps + moves
