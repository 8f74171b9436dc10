"""Crossover of two partitions of one layer: whole groups are inherited.

The parents take turns; each gives the group of which the most is still free, as in greedy partition
crossover (Galinier and Hao, Hybrid evolutionary algorithms for graph coloring, 1999,
https://doi.org/10.1023/A:1009823419804), but measured as a share of the group, so that intact groups come
first, whatever their size, as in the grouping genetic algorithm (Falkenauer, A hybrid grouping genetic
algorithm for bin packing, 1996, https://doi.org/10.1007/BF00226291).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gqasearch.budget import Budget
from gqasearch.grouping import LayerGrouping
from gqasearch.search.operators.repair import repair

Groups = Sequence[Sequence[int]]


def crossover(
    first: LayerGrouping, second: LayerGrouping, count: int, budget: Budget, rng: np.random.Generator
) -> LayerGrouping:
    """A child with ``count`` groups. Heads that no inherited group holds join the group where most of
    their partners are. Parents that are equal have a child equal to them.
    """
    child = _inherit(first, second, count, rng)
    placed = {head for group in child for head in group}
    orphans = [head for head in range(first.num_heads) if head not in placed]
    for index in rng.permutation(len(orphans)).tolist():
        _adopt(orphans[index], child, (first, second), budget, rng)
    return repair(child, count, budget, rng)


def _inherit(first: LayerGrouping, second: LayerGrouping, count: int, rng: np.random.Generator) -> list[list[int]]:
    """At most ``count`` disjoint groups, taken from the parents in turn."""
    parents = (first.groups, second.groups)
    free = set(range(first.num_heads))
    child: list[list[int]] = []
    turn = int(rng.integers(2))
    while free and len(child) < count:
        shares = [len(free.intersection(group)) / len(group) for group in parents[turn]]
        best = max(shares)
        ties = [group for group, share in zip(parents[turn], shares, strict=True) if share == best]
        taken = [head for head in ties[int(rng.integers(len(ties)))] if head in free]
        child.append(taken)
        free.difference_update(taken)
        turn = 1 - turn
    return child


def _adopt(
    head: int,
    child: list[list[int]],
    parents: tuple[LayerGrouping, LayerGrouping],
    budget: Budget,
    rng: np.random.Generator,
) -> None:
    """Put ``head`` into the group with room that holds most of its partners in the parents."""
    partners = [other for parent in parents for group in parent.groups if head in group for other in group]
    room = [group for group in child if len(group) < budget.largest]
    known = [sum(partners.count(other) for other in group) for group in room]
    ties = [group for group, number in zip(room, known, strict=True) if number == max(known)]
    ties[int(rng.integers(len(ties)))].append(head)
