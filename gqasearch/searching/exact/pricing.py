"""Exact pricing: the groups whose reduced cost is below a threshold, and a bound for all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gqasearch.searching.exact.enumeration import all_columns, number_of_groups
from gqasearch.searching.exact.pairwise_problem import Columns, PairwiseProblem
from gqasearch.searching.exact.tree import Tree
from gqasearch.searching.problem import FloatArray

# Up to this many groups are listed once and priced by a product of matrices.
ENUMERATION_LIMIT = 50_000
# Share of the least-squares additive part that is split off. Any share is valid; measured at H = 32, G = 4, sizes up to
# 16: 1.03 to 1.1 take a third of the nodes that 1 takes on trained heads, and as many on gaussian ones.
ADDITIVE_SHARE = 1.05


@dataclass(frozen=True)
class Priced:
    """``columns`` (N, H) and ``reduced`` (N,): groups below their threshold, c(S) less the prices of their heads.

    ``least`` (M,): no group of each size has a lower reduced cost; ``complete``: the columns are all there are.
    """

    columns: Columns
    reduced: FloatArray
    least: FloatArray
    complete: bool


class Pricer(Protocol):
    """Prices groups exactly."""

    def price(self, prices: FloatArray, thresholds: FloatArray, deadline: float, limit: int) -> Priced:
        """Groups with reduced cost below the threshold of their size, (M,), with ``prices`` of heads, (H,).

        Ends early at ``deadline`` (``time.monotonic``) or with more than ``limit`` groups.
        """


def make_pricer(problem: PairwiseProblem) -> Pricer:
    """Enumeration where the groups are few, else branch and bound."""
    if number_of_groups(problem.num_heads, problem.sizes) <= ENUMERATION_LIMIT:
        return EnumeratedPricer(problem)
    return TreePricer(problem)


class EnumeratedPricer:
    """All groups, listed once."""

    def __init__(self, problem: PairwiseProblem) -> None:
        self._columns = all_columns(problem)
        self._costs = problem.costs(self._columns)
        self._size_index = self._columns.sum(1).astype(np.intp) - problem.sizes[0]
        self._num_sizes = len(problem.sizes)

    def price(self, prices: FloatArray, thresholds: FloatArray, deadline: float, limit: int) -> Priced:
        reduced = self._costs - self._columns @ prices
        least = np.full(self._num_sizes, np.inf)
        np.minimum.at(least, self._size_index, reduced)
        below = np.flatnonzero(reduced < thresholds[self._size_index])
        chosen = below[np.argsort(reduced[below], kind="stable")[:limit]]
        return Priced(self._columns[chosen], reduced[chosen], least, len(chosen) == len(below))


class TreePricer:
    """A branch and bound per size.

    E is split into E_ij = s_i + s_j + R_ij by least squares first. Then c(S) = (m - 1)/m * sum s_i + sum R_ij / m:
    the additive part is linear, exact in every bound, and only the small rest R is bounded pair by pair. Heads of
    small norm are near to all others, so in trained heads the additive part is nearly everything.
    """

    def __init__(self, problem: PairwiseProblem) -> None:
        self._sizes = problem.sizes
        excess, count = problem.excess, problem.num_heads
        self._additive = np.zeros(count)
        if count > 2:
            fitted = excess.sum(1) / (count - 2) - excess.sum() / (2 * (count - 1) * (count - 2))
            self._additive = ADDITIVE_SHARE * fitted
        self._rest = excess - self._additive[:, None] - self._additive
        np.fill_diagonal(self._rest, 0.0)

    def price(self, prices: FloatArray, thresholds: FloatArray, deadline: float, limit: int) -> Priced:
        columns, reduced, least, complete = [], [], [], True
        # Large groups are the most: where they are too many, that shows at once.
        for size, threshold in reversed(list(zip(self._sizes, thresholds.tolist(), strict=True))):
            linear = prices - (size - 1) / size * self._additive
            found = Tree(self._rest / size, linear, size, threshold).search(deadline, limit)
            columns.append(found.columns)
            reduced.append(found.reduced)
            least.append(found.bound)
            complete &= found.complete
            limit -= len(found.reduced)
        return Priced(np.concatenate(columns), np.concatenate(reduced), np.array(least[::-1]), complete)
