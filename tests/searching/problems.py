"""Small problems whose best answers can be counted out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from hypothesis import strategies as st

from gqasearch.budget import Budget
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching import Objective, Problem, SetErrors
from gqasearch.searching.problem import FloatArray


def all_partitions(num_heads: int) -> Iterator[LayerGrouping]:
    """Every partition, by its restricted growth string."""

    def grow(labels: list[int]) -> Iterator[list[int]]:
        if len(labels) == num_heads:
            yield labels
            return
        for label in range(max(labels, default=-1) + 2):
            yield from grow([*labels, label])

    return map(LayerGrouping.from_labels, grow([]))


def fits(layer: LayerGrouping, count: int, budget: Budget) -> bool:
    """Whether a partition has this number of groups, with sizes within bounds."""
    return layer.num_groups == count and all(budget.smallest_group <= n <= budget.largest for n in layer.sizes)


def partitions_within(budget: Budget, count: int) -> list[LayerGrouping]:
    return [layer for layer in all_partitions(budget.num_heads) if fits(layer, count, budget)]


def one_by_one(error: Callable[[tuple[int, ...]], float]) -> Callable[[Sequence[tuple[int, ...]]], list[float]]:
    """A function of one group as ``SetErrors`` takes it: of many."""
    return lambda groups: [error(group) for group in groups]


class SetFunction:
    """A random error for every set of heads of one layer; 0 for a single head. Counts what it is asked."""

    def __init__(self, num_heads: int, seed: int) -> None:
        self.num_heads = num_heads
        self.table = np.random.default_rng(seed).random(2**num_heads)
        self.asked: list[Grouping] = []

    def of(self, layer: LayerGrouping) -> float:
        return sum(map(self.error, layer.groups))

    def error(self, group: tuple[int, ...]) -> float:
        return float(self.table[sum(1 << h for h in group)]) if len(group) > 1 else 0.0

    def __call__(self, groupings: Sequence[Grouping]) -> FloatArray:
        self.asked += groupings
        return np.array([self.of(grouping.layers[0]) for grouping in groupings])


class Pairwise(SetFunction):
    """Squared distances of random points, over the size of the group: the shape of a mean merge's error."""

    def __init__(self, num_heads: int, seed: int) -> None:
        self.num_heads = num_heads
        self.asked = []
        points = np.random.default_rng(seed).normal(size=(num_heads, 4))
        self.distances = ((points[:, None] - points[None]) ** 2).sum(-1)

    def error(self, group: tuple[int, ...]) -> float:
        return float(self.distances[np.ix_(group, group)].sum()) / (2 * len(group))


class Entangled:
    """A function of the whole model that is no sum over layers. Counts what it is asked."""

    def __init__(self, num_layers: int, num_heads: int, seed: int) -> None:
        self.layers = [SetFunction(num_heads, seed + 100 * layer) for layer in range(num_layers)]
        self.asked: list[Grouping] = []

    def __call__(self, groupings: Sequence[Grouping]) -> FloatArray:
        self.asked += groupings
        parts = [[f.of(layer) for f, layer in zip(self.layers, g, strict=True)] for g in groupings]
        return np.array([sum(part) + np.prod(np.add(part, 1)) for part in parts])


def kv_heads(groupings: Sequence[Grouping]) -> FloatArray:
    return np.array([grouping.kv_heads_total for grouping in groupings], dtype=np.float64)


def one_layer(
    objective: Objective, num_heads: int, count: int, smallest_group: int = 1, largest_group: int | None = None
) -> Problem:
    budget = Budget((count,), num_heads, smallest_group=smallest_group, largest_group=largest_group)
    return Problem({"error": objective}, budget)


class CountedErrors(SetErrors):
    """A sum over groups; the groupings it is asked about are kept in ``function.asked``."""

    def __init__(self, function: SetFunction) -> None:
        super().__init__(function.num_heads, one_by_one(function.error))
        self.function = function

    def objective(self, groupings: Sequence[Grouping]) -> FloatArray:
        self.function.asked += groupings
        return super().objective(groupings)


def separable(num_layers: int, num_heads: int, counts: tuple[int, ...], seed: int) -> tuple[Problem, list[SetFunction]]:
    """A sum over layers of set functions, and those."""
    functions = [SetFunction(num_heads, seed + layer) for layer in range(num_layers)]

    def total(groupings: Sequence[Grouping]) -> FloatArray:
        return np.array([sum(f.of(la) for f, la in zip(functions, g, strict=True)) for g in groupings])

    errors = tuple(map(CountedErrors, functions))
    return Problem({"error": total}, Budget(counts, num_heads), layer_errors=errors), functions


@st.composite
def budgets(draw: st.DrawFn, max_heads: int = 9, max_layers: int = 1, movable: bool = False) -> Budget:
    """Budgets with size bounds, equal sizes among them, and a step of the counts, that some partition fits."""
    num_heads = draw(st.integers(2, max_heads))
    smallest = draw(st.integers(1, num_heads))
    largest = draw(st.integers(smallest, num_heads))
    low, high = -(-num_heads // largest), num_heads // smallest
    if low > high:
        low, high, smallest, largest = 1, num_heads, 1, num_heads
    steps = [step for step in (1, 2, 3) if high // step * step >= low]
    step = draw(st.sampled_from(steps))
    allowed = [count for count in range(low, high + 1) if count % step == 0]
    counts = draw(st.lists(st.sampled_from(allowed), min_size=1, max_size=max_layers))
    return Budget(tuple(counts), num_heads, movable, smallest, largest, step)


seeds = st.integers(0, 2**32 - 1)
