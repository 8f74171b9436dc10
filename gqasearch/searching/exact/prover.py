"""Certificates for one layer's error, whatever kind of sum it is."""

from __future__ import annotations

import math
import time

import numpy as np

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.group_errors import GroupErrors, PairwiseErrors
from gqasearch.grouping import LayerGrouping
from gqasearch.searching.exact.certificate import Certificate
from gqasearch.searching.exact.column_generation import solve_pairwise
from gqasearch.searching.exact.subset_dp import MAX_HEADS, SubsetOptima, solve_subsets, tabulate_errors


def check_provable(errors: GroupErrors) -> None:
    """Raise ``UserError`` for an error that no exact method here can bound."""
    if not isinstance(errors, PairwiseErrors) and errors.num_heads > MAX_HEADS:
        raise UserError(
            f"optimality cannot be proven for this fitness with {errors.num_heads} heads: it is no sum over pairs "
            f"(weight-sharing-error and activation-cosine are), and other sums over groups take at most {MAX_HEADS}"
        )


class Prover:
    """Best partitions of one layer with proof: by column generation for pairwise errors, by subsets for others.

    ``time_limit``: seconds that one certificate may take; it then has the gap that is left. Table and
    recursion over subsets give every number of groups at once and are made once.
    """

    def __init__(self, errors: GroupErrors, budget: Budget, time_limit: float) -> None:
        check_provable(errors)
        self._errors = errors
        self._budget = budget
        self._time_limit = time_limit
        self._optima: SubsetOptima | None = None

    def certificate(self, count: int, rng: np.random.Generator, start: LayerGrouping | None = None) -> Certificate:
        """The best partition into ``count`` groups, no worse than ``start``."""
        if isinstance(self._errors, PairwiseErrors):
            return solve_pairwise(
                self._errors.distances,
                count,
                self._budget.smallest_group,
                self._budget.largest,
                start=None if start is None else start.groups,
                time_limit=self._time_limit,
                rng=rng,
            )
        return self._by_subsets(count, start)

    def _by_subsets(self, count: int, start: LayerGrouping | None) -> Certificate:
        begun, budget, errors = time.monotonic(), self._budget, self._errors
        if self._optima is None:
            bounds = (budget.num_heads, budget.smallest_group, budget.largest)
            table = tabulate_errors(errors.group_errors, *bounds, time_limit=self._time_limit)
            if table is None:
                layer = start or LayerGrouping.neighbours(budget.num_heads, count)
                value = sum(map(errors.group_error, layer.groups))
                return Certificate(layer.groups, value, -math.inf, time.monotonic() - begun)
            self._optima = solve_subsets(table, *bounds)
        return self._optima.certificate(count)
