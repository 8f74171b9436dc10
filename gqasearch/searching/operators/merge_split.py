"""Mutation: two groups become one and a group is cut in two, so that the number of groups stays."""

from __future__ import annotations

import numpy as np

from gqasearch.budget import Budget
from gqasearch.grouping import LayerGrouping


def merge_split(layer: LayerGrouping, budget: Budget, rng: np.random.Generator) -> LayerGrouping:
    """Merge two random groups, then cut their union or another group at random.

    The union is cut again when it is larger than the bounds allow. The layer itself when it has one group.
    """
    if layer.num_groups == 1:
        return layer
    groups = list(layer.groups)
    union = groups.pop(int(rng.integers(len(groups)))) + groups.pop(int(rng.integers(len(groups))))
    groups.append(union)
    cuttable = [i for i, group in enumerate(groups[:-1]) if len(group) >= 2 * budget.smallest_group and len(group) > 1]
    if len(union) > budget.largest or not cuttable or rng.random() < 0.5:
        chosen = len(groups) - 1
    else:
        chosen = cuttable[int(rng.integers(len(cuttable)))]
    groups.extend(_cut(groups.pop(chosen), budget, rng))
    return LayerGrouping.from_groups(groups)


def _cut(group: tuple[int, ...], budget: Budget, rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two parts of random size within bounds, heads dealt at random."""
    smallest = max(budget.smallest_group, len(group) - budget.largest)
    size = int(rng.integers(smallest, len(group) - smallest + 1))
    order = tuple(rng.permutation(group).tolist())
    return order[:size], order[size:]
