"""Mutation of a whole model: the number of groups of a layer changes by one."""

from __future__ import annotations

import numpy as np

from gqasearch.budget import Budget
from gqasearch.grouping import Grouping
from gqasearch.search.operators.repair import count_range, repair


def shift(grouping: Grouping, budget: Budget, free_counts: bool, rng: np.random.Generator) -> Grouping:
    """One layer gets a group more and another one less; with ``free_counts``, one layer one more or less.

    A layer gains a group when one of its groups is split, loses one when two merge. The grouping itself
    when no layer may change its count.
    """
    low, high = count_range(budget)
    losers = [layer for layer, count in enumerate(grouping.group_counts) if count > low]
    gainers = [layer for layer, count in enumerate(grouping.group_counts) if count < high]
    if free_counts:
        changes = [(layer, -1) for layer in losers] + [(layer, +1) for layer in gainers]
        if not changes:
            return grouping
        return _resize(grouping, *changes[int(rng.integers(len(changes)))], budget, rng)
    pairs = [(loser, gainer) for loser in losers for gainer in gainers if loser != gainer]
    if not pairs:
        return grouping
    loser, gainer = pairs[int(rng.integers(len(pairs)))]
    return _resize(_resize(grouping, loser, -1, budget, rng), gainer, +1, budget, rng)


def _resize(grouping: Grouping, layer: int, change: int, budget: Budget, rng: np.random.Generator) -> Grouping:
    old = grouping.layers[layer]
    return grouping.replace_layer(layer, repair(old.groups, old.num_groups + change, budget, rng))
