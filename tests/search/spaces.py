"""Small problems whose every partition can be looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from gqasearch.budget import Budget
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.search import Objective, Problem

FloatArray = NDArray[np.float64]


def partitions(heads: int) -> Iterator[LayerGrouping]:
    """Every partition once, as restricted growth strings."""

    def grow(labels: list[int]) -> Iterator[list[int]]:
        if len(labels) == heads:
            yield labels
            return
        for label in range(max(labels, default=-1) + 2):
            yield from grow([*labels, label])

    for labels in grow([]):
        yield LayerGrouping.from_labels(labels)


def allowed(budget: Budget, layer: int = 0) -> list[LayerGrouping]:
    """Every partition of one layer within its count and bounds."""
    return [
        p
        for p in partitions(budget.num_heads)
        if p.num_groups == budget.counts[layer]
        and min(p.sizes) >= budget.smallest_group
        and max(p.sizes) <= budget.largest
    ]


class SetFunction:
    """A random error for every set of heads: 0 for one head, larger for more; counts its calls by genome."""

    def __init__(self, heads: int, layers: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.table = [
            {
                mask: 0.0 if mask.bit_count() == 1 else float(rng.random() * mask.bit_count())
                for mask in range(1, 2**heads)
            }
            for _ in range(layers)
        ]
        self.asked: list[Grouping] = []

    def layer(self, index: int, grouping: LayerGrouping) -> float:
        return sum(self.table[index][sum(1 << head for head in group)] for group in grouping.groups)

    def objective(self, groupings: Sequence[Grouping]) -> FloatArray:
        self.asked += groupings
        return np.array([sum(self.layer(i, la) for i, la in enumerate(g)) for g in groupings])

    def layer_objectives(self) -> tuple[Objective, ...]:
        def one(index: int) -> Objective:
            return lambda groupings: np.array([self.layer(index, g.layers[0]) for g in groupings])

        return tuple(one(index) for index in range(len(self.table)))


def separable(budget: Budget, seed: int) -> tuple[Problem, SetFunction]:
    error = SetFunction(budget.num_heads, len(budget.counts), seed)
    return Problem({"error": error.objective}, budget, layer_objectives=error.layer_objectives()), error


def joint(budget: Budget, seed: int, free_counts: bool = False) -> tuple[Problem, SetFunction]:
    """One objective, or with free counts a second one: the KV ratio."""
    error = SetFunction(budget.num_heads, len(budget.counts), seed)
    objectives: dict[str, Objective] = {"error": error.objective}
    if free_counts:
        objectives["kv-ratio"] = lambda groupings: np.array([g.kv_ratio for g in groupings])
    return Problem(objectives, budget, free_counts=free_counts), error


def best_value(budget: Budget, error: SetFunction) -> float:
    """The optimum by looking at everything, layer by layer."""
    return sum(min(error.layer(i, p) for p in allowed(budget, i)) for i in range(len(budget.counts)))


def true_front(budget: Budget, error: SetFunction) -> set[tuple[float, float]]:
    """Non-dominated (error, KV ratio) over every grouping within the size bounds."""
    rows = [
        [
            p
            for p in partitions(budget.num_heads)
            if budget.smallest_group <= min(p.sizes) and max(p.sizes) <= budget.largest
        ]
    ] * len(budget.counts)
    best: dict[float, float] = {}
    for layers in product(*rows):
        grouping = Grouping(tuple(layers))
        value = sum(error.layer(i, la) for i, la in enumerate(grouping))
        best[grouping.kv_ratio] = min(value, best.get(grouping.kv_ratio, np.inf))
    points = {(value, ratio) for ratio, value in best.items()}
    return {a for a in points if not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in points)}
