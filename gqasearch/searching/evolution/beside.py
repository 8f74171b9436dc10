"""Starts from what is known: merges from single heads down, and a step to one group fewer or more."""

from __future__ import annotations

import numpy as np

from gqasearch.budget import Budget
from gqasearch.group_errors import GroupErrors
from gqasearch.grouping import LayerGrouping
from gqasearch.searching.operators import repair


def best_merge(layer: LayerGrouping, errors: GroupErrors, budget: Budget) -> LayerGrouping | None:
    """``layer`` with the two groups merged that cost least; None when the bounds allow no merge."""
    groups, sizes = layer.groups, np.array(layer.sizes)
    unions = errors.union_errors(groups)
    own = np.diagonal(unions)
    allowed = np.triu(sizes[:, None] + sizes <= budget.largest, k=1)
    if not allowed.any():
        return None
    costs = np.where(allowed, unions - own[:, None] - own, np.inf)
    one, two = np.unravel_index(int(costs.argmin()), costs.shape)
    others = [group for index, group in enumerate(groups) if index not in (one, two)]
    return LayerGrouping.from_groups([*others, groups[one] + groups[two]])


def best_split(layer: LayerGrouping, errors: GroupErrors, budget: Budget) -> LayerGrouping | None:
    """``layer`` with the head on its own that this helps most; None when the bounds allow no group of one.

    A descent moves more heads to it. Costs as many group errors as there are heads, where trying every cut
    of every group would cost 2^n.
    """
    if budget.smallest_group > 1:
        return None
    shared = [group for group in layer.groups if len(group) > 1]
    cuts = [(head, group, tuple(other for other in group if other != head)) for group in shared for head in group]
    errors_now = dict(zip(shared, errors.group_errors(shared), strict=True))
    after = errors.group_errors([rest for _, _, rest in cuts])
    splits = [(error - errors_now[cut[1]], *cut) for error, cut in zip(after, cuts, strict=True)]
    if not splits:
        return None
    _, head, group, rest = min(splits)
    return LayerGrouping.from_groups([*(other for other in layer.groups if other != group), rest, (head,)])


def merged_down(count: int, errors: GroupErrors, budget: Budget, rng: np.random.Generator) -> tuple[LayerGrouping, int]:
    """From single heads, always the two groups that cost least, down to ``count``; repaired where bounds stop that.

    Also how many unions it looked at: all pairs of heads, then those with the group just made.
    """
    layer = LayerGrouping.singletons(budget.num_heads)
    looked_at = layer.num_groups * (layer.num_groups - 1) // 2
    while layer.num_groups > count and (merged := best_merge(layer, errors, budget)) is not None:
        layer = merged
        looked_at += layer.num_groups - 1
    return repair(layer.groups, count, budget, rng), looked_at
