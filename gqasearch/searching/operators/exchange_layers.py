"""Crossover of two whole models: layers are exchanged, and about one of them is crossed group by group."""

from __future__ import annotations

import numpy as np

from gqasearch.budget import Budget
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching.operators.crossover import crossover
from gqasearch.searching.operators.repair import allowed_counts, repair


def exchange_layers(
    first: Grouping, second: Grouping, budget: Budget, free_counts: bool, rng: np.random.Generator
) -> Grouping:
    """Every layer from one parent or the other; of those that differ one, on average, from both.

    Unless ``free_counts``, the child has its parents' total number of groups: where the exchange
    unbalanced it, layers go back to the other parent while that helps, then groups are split or merged.
    """
    parents = (first, second)
    differing = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    layers = list(first.layers)
    crossed = rng.random(len(differing)) * len(differing) < 1
    sides = rng.integers(2, size=len(differing)).tolist()
    for layer, side, cross in zip(differing, sides, crossed.tolist(), strict=True):
        layers[layer] = parents[side].layers[layer]
        if cross:
            count = layers[layer].num_groups
            layers[layer] = crossover(first.layers[layer], second.layers[layer], count, budget, rng)
    if not free_counts:
        _restore_total(layers, parents, first.kv_heads_total, budget, rng)
    return Grouping(tuple(layers))


def _restore_total(
    layers: list[LayerGrouping],
    parents: tuple[Grouping, Grouping],
    total: int,
    budget: Budget,
    rng: np.random.Generator,
) -> None:
    excess = sum(layer.num_groups for layer in layers) - total
    for index in rng.permutation(len(layers)).tolist():
        for parent in parents:
            change = parent.layers[index].num_groups - layers[index].num_groups
            if abs(excess + change) < abs(excess):
                layers[index] = parent.layers[index]
                excess += change
    allowed = allowed_counts(budget)
    while excess:
        step = -budget.count_step if excess > 0 else budget.count_step
        able = [i for i, layer in enumerate(layers) if layer.num_groups + step in allowed]
        index = able[int(rng.integers(len(able)))]
        layers[index] = repair(layers[index].groups, layers[index].num_groups + step, budget, rng)
        excess += step
