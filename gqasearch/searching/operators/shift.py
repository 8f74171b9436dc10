"""Mutation of a whole model: the number of groups of a layer changes by one step."""

from __future__ import annotations

import numpy as np

from gqasearch.budget import Budget
from gqasearch.grouping import Grouping
from gqasearch.searching.operators.repair import allowed_counts, repair


def shift(grouping: Grouping, budget: Budget, free_counts: bool, rng: np.random.Generator) -> Grouping:
    """One layer gets ``budget.count_step`` groups more and another as many less; with ``free_counts``, one layer alone.

    A layer gains a group when one of its groups is split, loses one when two merge. The grouping itself
    when no layer may change its count.
    """
    counts, step = allowed_counts(budget), budget.count_step
    losers = [layer for layer, count in enumerate(grouping.group_counts) if count > counts[0]]
    gainers = [layer for layer, count in enumerate(grouping.group_counts) if count < counts[-1]]
    if free_counts:
        changes = [(layer, -step) for layer in losers] + [(layer, +step) for layer in gainers]
        if not changes:
            return grouping
        return _resize(grouping, *changes[int(rng.integers(len(changes)))], budget, rng)
    pairs = [(loser, gainer) for loser in losers for gainer in gainers if loser != gainer]
    if not pairs:
        return grouping
    loser, gainer = pairs[int(rng.integers(len(pairs)))]
    return _resize(_resize(grouping, loser, -step, budget, rng), gainer, +step, budget, rng)


def _resize(grouping: Grouping, layer: int, change: int, budget: Budget, rng: np.random.Generator) -> Grouping:
    old = grouping.layers[layer]
    return grouping.replace_layer(layer, repair(old.groups, old.num_groups + change, budget, rng))
