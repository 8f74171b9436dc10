"""Column generation for pairwise fitness: partitions proven best, or with the gap that is left.

Set partitioning for minimum-sum-of-squares clustering: du Merle, Hansen, Jaumard, Mladenovic 2000,
https://doi.org/10.1137/S1064827597328327; Aloise, Hansen, Liberti 2012, https://doi.org/10.1007/s10107-010-0349-7.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from gqasearch.search.exact.certificate import Certificate
from gqasearch.search.exact.descent import descend, random_labels
from gqasearch.search.exact.local_pricing import random_columns, search_columns
from gqasearch.search.exact.master import Master, Relaxed, solve_partitioning
from gqasearch.search.exact.pairwise import Columns, Groups, PairwiseProblem, groups_of
from gqasearch.search.exact.pricing import Priced, make_pricer
from gqasearch.search.exact.size_patterns import SizePatterns
from gqasearch.search.problem import FloatArray

# Value of the start in the units that the solvers work in: HiGHS's absolute tolerance of 1e-10 is then 1e-13.
SCALE = 1e3
# What rounding may do to a reduced cost, a threshold or a bound, in those units.
ROUNDING = 1e-9
# Random starts of a descent, and of a heuristic pricing.
STARTS = 64
# Groups that one exact pricing may return, and size patterns that go into the last integer problem.
POOL_LIMIT = 60_000
# Groups added to the master after one pricing.
BATCH = 400


def solve_pairwise(
    distances: FloatArray,
    num_groups: int,
    smallest: int = 1,
    largest: int | None = None,
    *,
    start: Groups | None = None,
    time_limit: float = 60.0,
    rng: np.random.Generator,
) -> Certificate:
    """Partition H heads into ``num_groups`` groups at the least sum of c(S) = (1/|S|) sum_{i<j in S} D_ij.

    ``distances``: D, (H, H), symmetric, not negative, zero diagonal; need not be Euclidean. Group sizes are
    ``smallest`` to ``largest`` (None: H); equal: EC. ``start``: a partition to begin with. After ``time_limit``
    seconds the best partition so far comes back with a valid bound. The same ``rng`` state gives the same answer
    when the limit does not strike. Raises ``UserError`` for bad distances, bounds or start.
    """
    begun = time.monotonic()
    problem = PairwiseProblem.from_distances(distances, num_groups, smallest, largest)
    groups, upper = _first_partition(problem, start, rng, starts=STARTS if time_limit > 0 else 1)
    lower = 0.0
    if upper > 0 and 1 < num_groups < problem.num_heads:
        factor = SCALE / upper
        scaled = replace(problem, excess=problem.excess * factor)
        run = _Run(scaled, problem.columns(groups), begun + time_limit, rng)
        run.solve()
        groups, upper = groups_of(run.best), problem.value(groups_of(run.best))
        lower = run.lower / factor
    elif num_groups in (1, problem.num_heads):
        lower = upper
    value = upper + problem.offset
    bound = value if lower >= upper else lower + problem.offset
    return Certificate(groups, value, min(bound, value), time.monotonic() - begun)


def _first_partition(
    problem: PairwiseProblem, start: Groups | None, rng: np.random.Generator, starts: int
) -> tuple[Groups, float]:
    """The best local optimum of a few descents, or the start when it is better."""
    optima = descend(problem, random_labels(problem, starts, rng))
    values = problem.costs(optima.reshape(-1, problem.num_heads)).reshape(len(optima), -1).sum(1)
    groups = groups_of(optima[int(values.argmin())])
    if start is not None:
        given = problem.check_partition(start)
        groups = min(given, groups, key=problem.value)
    return groups, problem.value(groups)


class _Run:
    """One solution under way, in scaled units: the best partition, its cost ``upper``, and the bound ``lower``."""

    def __init__(
        self, problem: PairwiseProblem, start: Columns, deadline: float, rng: np.random.Generator
    ) -> None:
        self.problem, self.deadline, self.rng = problem, deadline, rng
        self.patterns = SizePatterns(problem.num_heads, problem.num_groups, problem.sizes)
        self.best, self.upper, self.lower = start, float(problem.costs(start).sum()), 0.0
        self.master = Master(problem)
        self.add_partition(start)

    @property
    def is_done(self) -> bool:
        return self.upper - self.lower <= ROUNDING or time.monotonic() >= self.deadline

    def add_partition(self, columns: Columns) -> None:
        """Its groups and sizes go into the master; it may be the best so far."""
        self.master.add(columns)
        self.master.add_pattern((columns.sum(1)[:, None] == np.array(self.problem.sizes)).sum(0).astype(np.float64))
        cost = float(self.problem.costs(columns).sum())
        if cost < self.upper:
            self.best, self.upper = columns, cost

    def solve(self) -> None:
        """Generate columns until the relaxation is solved, then close the gap that is left."""
        pricer = None
        if self.is_done:
            return
        for optimum in descend(self.problem, random_labels(self.problem, STARTS, self.rng)):
            self.add_partition(optimum)
        while not self.is_done:
            relaxed = self.solve_relaxation()
            if self.add_promising(relaxed):
                continue
            pricer = pricer or make_pricer(self.problem)
            value, thresholds = self.thresholds(relaxed)
            priced = pricer.price(relaxed.heads, thresholds, self.deadline, POOL_LIMIT)
            self.raise_lower(relaxed, priced)
            if self.add_violated(relaxed, priced):
                continue
            if priced.complete:
                self.close(relaxed, priced, value)
            return

    def solve_relaxation(self) -> Relaxed:
        """The relaxation over the groups known, and over all size patterns."""
        while True:
            relaxed = self.master.solve()
            used = relaxed.weights > 0.5
            if (relaxed.weights[used] > 1 - 1e-9).all() and used.sum() == self.problem.num_groups:
                chosen = self.master.columns[used]
                if (chosen.sum(0) == 1).all():
                    self.add_partition(chosen)
            _, pattern = self.patterns.cheapest(relaxed.sizes)
            if not self.master.add_pattern(pattern):
                return relaxed

    def add_promising(self, relaxed: Relaxed) -> int:
        """Heuristic pricing; how many groups it added."""
        basic = self.master.columns[relaxed.weights > 0]
        starts = np.concatenate([basic, random_columns(self.problem, STARTS, self.rng)])
        columns, reduced = search_columns(self.problem, relaxed.heads, relaxed.sizes, starts)
        return self.master.add(columns[reduced < -ROUNDING][:BATCH])

    def thresholds(self, relaxed: Relaxed) -> tuple[float, FloatArray]:
        """Value of the relaxation, and the reduced cost of each size, (M,), from which on a group is of no use.

        A partition that holds S costs at least sum of prices + reduced cost of S + the cheapest G - 1 other groups
        beside it (every group costs at least the price of its size once the relaxation is solved).
        """
        prices = float(relaxed.heads.sum())
        rest = self.patterns.with_size(relaxed.sizes)
        value = prices + self.patterns.cheapest(relaxed.sizes)[0]
        return value, self.upper - prices - rest + ROUNDING

    def raise_lower(self, relaxed: Relaxed, priced: Priced) -> None:
        """The Lagrangian bound: heads at their prices, every group at the least reduced cost of its size."""
        bound = float(relaxed.heads.sum()) + self.patterns.cheapest(priced.least)[0] - ROUNDING
        self.lower = max(self.lower, min(bound, self.upper))

    def add_violated(self, relaxed: Relaxed, priced: Priced) -> int:
        """Groups that the relaxation lacks; how many were added."""
        sizes = relaxed.sizes[priced.columns.sum(1).astype(np.intp) - self.problem.sizes[0]]
        violation = priced.reduced - sizes
        order = np.argsort(violation, kind="stable")[:BATCH]
        return self.master.add(priced.columns[order[violation[order] < -ROUNDING]])

    def close(self, relaxed: Relaxed, priced: Priced, value: float) -> None:
        """All groups that a better partition can hold are known: the best of them is the best of all."""
        gap = self.upper - float(relaxed.heads.sum()) + ROUNDING
        patterns = self.patterns.up_to(relaxed.sizes, gap, POOL_LIMIT)
        if patterns is None:
            return
        left = self.deadline - time.monotonic()
        chosen, bound = solve_partitioning(self.problem, priced.columns, patterns, self.upper + ROUNDING, left)
        if chosen is not None:
            self.add_partition(chosen)
        self.lower = max(self.lower, min(bound, self.upper))
