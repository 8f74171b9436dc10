"""The first population: neighbour groupings and random partitions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching.operators import allowed_counts, random_counts, random_partition
from gqasearch.searching.problem import Problem

# Random draws in a row that may all be known already before the space counts as used up.
PATIENCE = 50


def neighbour_grouping(problem: Problem) -> Grouping:
    """Consecutive heads share, in every layer (the GQA paper's recipe)."""
    return _neighbours(problem.budget.counts, problem.num_heads)


def random_grouping(problem: Problem, rng: np.random.Generator) -> Grouping:
    """Random numbers of groups where they may change, a random partition in every layer."""
    counts = random_counts(problem.budget, problem.free_counts, rng)
    return Grouping(tuple(random_partition(count, problem.budget, rng) for count in counts))


def starting_groupings(problem: Problem, size: int, rng: np.random.Generator) -> list[Grouping]:
    """At most ``size`` different groupings: neighbours first, the rest random."""
    chosen = dict.fromkeys([neighbour_grouping(problem), *_neighbour_levels(problem, size)])
    failures = 0
    while len(chosen) < size and failures < PATIENCE:
        known = len(chosen)
        chosen.setdefault(random_grouping(problem, rng))
        failures = failures + 1 if len(chosen) == known else 0
    return list(chosen)[:size]


def _neighbour_levels(problem: Problem, size: int) -> Iterator[Grouping]:
    """For free numbers of groups: neighbours at every level, thinned to a quarter of the population."""
    if not problem.free_counts:
        return
    allowed = allowed_counts(problem.budget)
    places = np.linspace(0, len(allowed) - 1, num=max(2, min(size // 4, len(allowed))))
    for place in dict.fromkeys(np.rint(places).astype(int).tolist()):
        yield _neighbours((allowed[place],) * problem.num_layers, problem.num_heads)


def _neighbours(counts: tuple[int, ...], num_heads: int) -> Grouping:
    return Grouping(tuple(LayerGrouping.neighbours(num_heads, count) for count in counts))
