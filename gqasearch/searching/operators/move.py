"""Mutation: one head goes to another group. Never empties a group, never passes the size bounds."""

from __future__ import annotations

import numpy as np

from gqasearch.budget import Budget
from gqasearch.grouping import LayerGrouping


def move(layer: LayerGrouping, budget: Budget, rng: np.random.Generator) -> LayerGrouping:
    """A random move; the layer itself when none is allowed (equal sizes, for one)."""
    moves = _allowed_moves(layer, budget)
    if not moves:
        return layer
    return relocate(layer, *moves[int(rng.integers(len(moves)))])


def _allowed_moves(layer: LayerGrouping, budget: Budget) -> list[tuple[int, int]]:
    """Every allowed (head, index of the group it goes to)."""
    takers = [index for index, group in enumerate(layer.groups) if len(group) < budget.largest]
    return [
        (head, taker)
        for giver, group in enumerate(layer.groups)
        if len(group) > budget.smallest_group
        for head in group
        for taker in takers
        if taker != giver
    ]


def relocate(layer: LayerGrouping, head: int, taker: int) -> LayerGrouping:
    """``head`` in the group with index ``taker``."""
    changed = [
        tuple(sorted((*group, head))) if index == taker else tuple(other for other in group if other != head)
        for index, group in enumerate(layer.groups)
    ]
    return LayerGrouping(tuple(sorted(changed)))
