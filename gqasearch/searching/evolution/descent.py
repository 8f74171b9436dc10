"""Local descent for objectives of which nothing is known: the memetic part of the evolution."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from typing import TypeAlias

import numpy as np

from gqasearch.budget import Budget
from gqasearch.grouping import LayerGrouping
from gqasearch.searching.operators import exchange, relocate
from gqasearch.searching.record import Individual, Record
from gqasearch.searching.state import pack, unpack

Pair: TypeAlias = tuple[int, int, int]


class Descent:
    """Goes to better neighbours (a swap or a move away) and remembers where there are none.

    A pair of groups that had no gain in one individual is skipped in every other one that holds both. That
    loses nothing in a sum over groups; for other objectives it is a heuristic that saves evaluations.
    """

    def __init__(self, record: Record, rng: np.random.Generator) -> None:
        self._record = record
        self._rng = rng
        # Insertion-ordered, so that a snapshot is a length.
        self._settled: dict[Pair, None] = {}

    def __len__(self) -> int:
        return len(self._settled)

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

    def save(self, length: int) -> str:
        """The first ``length`` pairs."""
        return pack(json.dumps(list(self._settled)[:length]).encode("ascii"))

    def load(self, saved: str) -> None:
        """Take up saved pairs, in place of those known."""
        self._settled = dict.fromkeys((layer, one, two) for layer, one, two in json.loads(unpack(saved)))

    def _better_neighbour(self, current: Individual) -> Individual | None:
        """The best neighbour of the first pair of groups, in random order, that has one that dominates."""
        pairs = [
            (index, one, two, pair)
            for index, layer in enumerate(current.grouping)
            for one, two in combinations(range(layer.num_groups), 2)
            if (pair := (index, _mask(layer.groups[one]), _mask(layer.groups[two]))) not in self._settled
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
            self._settled[pair] = None
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


def _mask(group: tuple[int, ...]) -> int:
    """The group as a bit mask: short to store."""
    return sum(1 << head for head in group)
