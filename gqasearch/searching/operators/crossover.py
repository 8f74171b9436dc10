"""Crossover of two partitions of one layer: whole groups are inherited.

Groups that both parents have come first. Then the parents take turns; each gives the group of which the
most is still free, as in greedy partition crossover (Galinier and Hao, Hybrid evolutionary algorithms for
graph coloring, 1999, https://doi.org/10.1023/A:1009823419804), but measured as a share of the group, so that
intact groups go before broken ones, whatever their size, as in the grouping genetic algorithm (Falkenauer,
A hybrid grouping genetic algorithm for bin packing, 1996, https://doi.org/10.1007/BF00226291).
"""

from __future__ import annotations

import numpy as np

from gqasearch.budget import Budget
from gqasearch.grouping import LayerGrouping
from gqasearch.searching.operators.repair import repair, split_one


def crossover(
    first: LayerGrouping, second: LayerGrouping, count: int, budget: Budget, rng: np.random.Generator
) -> LayerGrouping:
    """A child with ``count`` groups, the number of one of its parents.

    It has every group that both parents have, unless a size bound forces heads into it; so equal parents
    have a child equal to them. Heads that no inherited group holds join the group where most of their
    partners are.
    """
    shared = set(first.groups) & set(second.groups)
    child = [list(group) for group in first.groups if group in shared]
    common = len(child)
    placed = {head for group in child for head in group}
    _inherit(child, (first, second), count, placed, rng)
    orphans = [head for head in range(first.num_heads) if head not in placed]
    for index in rng.permutation(len(orphans)).tolist():
        _adopt(orphans[index], child, common, (first, second), budget, rng)
    rest = child[common:]
    while common + len(rest) < count:  # all heads came with too few groups; those that both parents have stay whole
        split_one(rest, rng)
    return repair([*child[:common], *rest], count, budget, rng)


def _inherit(
    child: list[list[int]],
    parents: tuple[LayerGrouping, LayerGrouping],
    count: int,
    placed: set[int],
    rng: np.random.Generator,
) -> None:
    """Extend ``child`` to at most ``count`` disjoint groups, taken from the parents in turn."""
    turn = int(rng.integers(2))
    while len(placed) < parents[0].num_heads and len(child) < count:
        groups = parents[turn].groups
        shares = [1 - len(placed.intersection(group)) / len(group) for group in groups]
        ties = [group for group, share in zip(groups, shares, strict=True) if share == max(shares)]
        taken = [head for head in ties[int(rng.integers(len(ties)))] if head not in placed]
        child.append(taken)
        placed.update(taken)
        turn = 1 - turn


def _adopt(
    head: int,
    child: list[list[int]],
    common: int,
    parents: tuple[LayerGrouping, LayerGrouping],
    budget: Budget,
    rng: np.random.Generator,
) -> None:
    """Put ``head`` into the group with room that holds most of its partners in the parents.

    The first ``common`` groups, which both parents have, take it only when no other has room.
    """
    partners = [other for parent in parents for group in parent.groups if head in group for other in group]
    room = [group for group in child[common:] if len(group) < budget.largest]
    room = room or [group for group in child if len(group) < budget.largest]
    known = [sum(partners.count(other) for other in group) for group in room]
    ties = [group for group, number in zip(room, known, strict=True) if number == max(known)]
    ties[int(rng.integers(len(ties)))].append(head)
