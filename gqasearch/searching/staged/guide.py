"""What a cheap additive error knows: the best partition of every layer for every number of groups, and splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gqasearch.budget import Budget
from gqasearch.group_errors import GroupErrors
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.pairwise import FloatArray
from gqasearch.searching.allocation import split_budget
from gqasearch.searching.evolution import Evolution
from gqasearch.searching.operators import allowed_counts, count_range, repair
from gqasearch.searching.problem import Problem


@dataclass(frozen=True)
class GuideTable:
    """``partitions[l][g]``: the best partition met of layer l into g groups; ``errors`` (L, H): its error at
    column g - 1, inf where the budget forbids that number.
    """

    partitions: tuple[dict[int, LayerGrouping], ...]
    errors: FloatArray

    def grouping(self, counts: Sequence[int]) -> Grouping:
        """The best partition of every layer for these numbers of groups, (L,)."""
        return Grouping(tuple(table[count] for table, count in zip(self.partitions, counts, strict=True)))

    def split(self, total: int, weights: FloatArray | None = None) -> Grouping:
        """The grouping of ``total`` groups with the lowest sum of errors, each times its weight (L, H)."""
        curves = self.errors
        if weights is not None:
            # A weight may be 0, and 0 * inf is no number.
            curves = np.multiply(curves, weights, out=np.full_like(curves, np.inf), where=np.isfinite(curves))
        return self.grouping(split_budget(curves).counts(total))


def trace_guide(guide: Sequence[GroupErrors], budget: Budget, rng: np.random.Generator) -> GuideTable:
    """Search every layer for every number of groups by the guide alone, with the default evolution."""
    free = replace(budget, movable=False)
    problem = Problem({"guide": _not_summed}, free, free_counts=True, layer_errors=tuple(guide))
    partitions = []
    for layer in range(len(guide)):
        *_, last = Evolution().search(problem.layer_problem(layer, free_counts=True), rng)
        found = {candidate.grouping.kv_heads_total: candidate.grouping.layers[0] for candidate in last.front}
        partitions.append(_with_all_counts(found, free, rng))
    return tabulate(guide, partitions)


def tabulate(guide: Sequence[GroupErrors], partitions: Sequence[dict[int, LayerGrouping]]) -> GuideTable:
    """The table of these partitions, their errors computed."""
    errors = np.full((len(guide), guide[0].num_heads), np.inf)
    for layer, table in enumerate(partitions):
        for count, partition in table.items():
            errors[layer, count - 1] = sum(guide[layer].group_error(group) for group in partition.groups)
    return GuideTable(tuple(partitions), errors)


def _with_all_counts(
    found: dict[int, LayerGrouping], budget: Budget, rng: np.random.Generator
) -> dict[int, LayerGrouping]:
    """Every allowed count. A front leaves out those that do not pay (two heads that are copies): one group fewer,
    split, stands in.
    """
    low, high = count_range(budget)
    table = {low: found[low]}
    for count in range(low + 1, high + 1):
        table[count] = found.get(count) or repair(table[count - 1].groups, count, budget, rng)
    return {count: table[count] for count in allowed_counts(budget)}


def _not_summed(_groupings: Sequence[Grouping]) -> FloatArray:
    raise NotImplementedError("the guide is searched layer by layer")
