"""Mutation of a whole grouping: which operator, on which layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from gqasearch.budget import Budget
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching.operators import merge_split, move, shift, swap
from gqasearch.searching.problem import Problem

LayerMutation: TypeAlias = Callable[[LayerGrouping, Budget, np.random.Generator], LayerGrouping]

LAYER_MUTATIONS: dict[str, LayerMutation] = {
    "swap": lambda layer, _, rng: swap(layer, rng),
    "move": move,
    "merge_split": merge_split,
}


def usable_weights(weights: dict[str, float], problem: Problem) -> dict[str, float]:
    """The weights of the operators that can do something in this problem; they sum to 1."""
    budget = problem.budget
    useless = set()
    if budget.smallest_group == budget.largest:
        useless.add("move")
    if not (budget.movable or problem.free_counts):
        useless.add("shift")
    usable = {name: weight for name, weight in weights.items() if name not in useless}
    return {name: weight / sum(usable.values()) for name, weight in usable.items()}


def mutate(grouping: Grouping, problem: Problem, weights: dict[str, float], rng: np.random.Generator) -> Grouping:
    """Apply one operator, another with chance 1/2, and so on: small steps mostly, large ones at times.

    ``weights``: operator name -> chance. May give ``grouping`` back, when a drawn operator finds nothing to do.
    """
    names, chances = list(weights), np.cumsum(list(weights.values()))
    while True:
        drawn = names[min(int(np.searchsorted(chances, rng.random(), side="right")), len(names) - 1)]
        if drawn == "shift":
            grouping = shift(grouping, problem.budget, problem.free_counts, rng)
        else:
            grouping = _mutate_layer(grouping, LAYER_MUTATIONS[drawn], problem.budget, rng)
        if rng.random() < 0.5:
            return grouping


def _mutate_layer(grouping: Grouping, mutation: LayerMutation, budget: Budget, rng: np.random.Generator) -> Grouping:
    """Mutate a layer drawn from those with more than one partition of their number of groups."""
    layers = [i for i, count in enumerate(grouping.group_counts) if 1 < count < grouping.num_heads]
    if not layers:
        return grouping
    layer = layers[int(rng.integers(len(layers)))]
    return grouping.replace_layer(layer, mutation(grouping.layers[layer], budget, rng))
