"""Column generation for pairwise fitness: partitions proven best, or with the gap that is left.

Set partitioning for minimum-sum-of-squares clustering: du Merle, Hansen, Jaumard, Mladenovic 2000,
https://doi.org/10.1137/S1064827597328327; Aloise, Hansen, Liberti 2012, https://doi.org/10.1007/s10107-010-0349-7.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from gqasearch.search.exact.certificate import Certificate
from gqasearch.search.exact.closing import Pool
from gqasearch.search.exact.descent import descend, random_labels
from gqasearch.search.exact.local_pricing import random_columns, search_columns
from gqasearch.search.exact.master import Master, Relaxed
from gqasearch.search.exact.pairwise import Columns, Groups, PairwiseProblem, groups_of
from gqasearch.search.exact.pricing import Priced, make_pricer
from gqasearch.search.exact.size_patterns import SizePatterns
from gqasearch.search.exact.targets import Targets, easiest_targets
from gqasearch.search.problem import FloatArray

# Value of the start in the units that the solvers work in: HiGHS's absolute tolerance of 1e-10 is then 1e-13.
SCALE = 1e3
# What rounding may do to a reduced cost, a threshold or a bound, in those units.
ROUNDING = 1e-9
# Random starts of a descent, and of a heuristic pricing.
STARTS = 64
# Groups that one exact pricing may return, and size patterns that go into the last integer problem.
POOL_LIMIT = 200_000
# Groups added to the master after one pricing.
BATCH = 400
# Rounds of perturbation in a row that may find nothing better.
IDLE_ROUNDS = 3


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

    def __init__(self, problem: PairwiseProblem, start: Columns, deadline: float, rng: np.random.Generator) -> None:
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
        """Generate groups until the relaxation lacks none, then close the gap that is left."""
        if self.is_done:
            return
        for optimum in descend(self.problem, random_labels(self.problem, STARTS, self.rng)):
            self.add_partition(optimum)
        pricer = None
        while not self.is_done:
            relaxed = self.solve_relaxation()
            if self.add_promising(relaxed):
                continue
            targets = self.set_targets(relaxed)
            if targets is None:
                continue
            self.perturb()
            pricer = pricer or make_pricer(self.problem)
            priced = pricer.price(targets.heads, self.thresholds(targets), self.deadline, POOL_LIMIT)
            self.raise_lower(targets, priced)
            if not priced.complete:
                # The gap is too wide to list all that fits into it: at least solve the relaxation.
                priced = pricer.price(targets.heads, targets.sizes - ROUNDING, self.deadline, POOL_LIMIT)
                self.raise_lower(targets, priced)
                priced = replace(priced, complete=False)
            if self.add_violated(targets, priced):
                continue
            if priced.complete:
                self.close(targets, priced)
            return

    def perturb(self) -> None:
        """Look for a better partition near the best: descents from copies with a quarter of the heads reshuffled."""
        idle = 0
        while idle < IDLE_ROUNDS and not self.is_done:
            before = self.upper
            starts = np.tile(self.best.argmax(0), (STARTS, 1))
            for row in starts:
                heads = self.rng.choice(len(row), size=max(2, len(row) // 4), replace=False)
                row[heads] = row[self.rng.permutation(heads)]
            for optimum in descend(self.problem, starts):
                self.add_partition(optimum)
            idle = 0 if self.upper < before - ROUNDING else idle + 1

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
        columns, reduced = search_columns(self.problem, relaxed.heads, relaxed.sizes, self._with_random(basic))
        return self.master.add(columns[reduced < -ROUNDING][:BATCH])

    def set_targets(self, relaxed: Relaxed) -> Targets | None:
        """Prices to prove; None when the attempt met groups that the relaxation lacks, and added them."""
        heads = self.master.central_prices()
        if heads is None:
            heads = relaxed.heads
        known = self._with_random(self.master.columns)
        reduced = self.problem.costs(known) - known @ heads
        index = self.problem.size_index(known)
        least = np.full(len(self.problem.sizes), np.inf)
        np.minimum.at(least, index, reduced)
        order = np.argsort(reduced - least[index], kind="stable")
        columns, reduced = search_columns(self.problem, heads, least, self._with_random(known[order[:STARTS]]))
        if self.master.add(columns[reduced < -ROUNDING][:BATCH]):
            return None
        return Targets(heads, easiest_targets(self.patterns, least))

    def thresholds(self, targets: Targets) -> FloatArray:
        """The reduced cost of each size, (M,), from which on a group is of no use to a better partition.

        A partition that holds S costs at least the prices of all heads, the reduced cost of S, and the cheapest
        G - 1 other groups beside it. Not below the targets: they are what the others are held to.
        """
        useless = self.upper - float(targets.heads.sum()) - self.patterns.with_size(targets.sizes)
        return np.maximum(useless, targets.sizes) + self.problem.num_groups * ROUNDING

    def raise_lower(self, targets: Targets, priced: Priced) -> None:
        """The Lagrangian bound: heads at their prices, every group at the least reduced cost of its size."""
        bound = float(targets.heads.sum()) + self.patterns.cheapest(priced.least)[0] - ROUNDING
        self.lower = max(self.lower, min(bound, self.upper))

    def add_violated(self, targets: Targets, priced: Priced) -> int:
        """Groups below their target, which the relaxation lacks; how many were added."""
        violation = priced.reduced - targets.sizes[self.problem.size_index(priced.columns)]
        order = np.argsort(violation, kind="stable")[:BATCH]
        return self.master.add(priced.columns[order[violation[order] < -ROUNDING]])

    def close(self, targets: Targets, priced: Priced) -> None:
        """All groups that a better partition can hold are known: the best of them is the best of all."""
        gap = self.upper - float(targets.heads.sum()) + self.problem.num_groups * ROUNDING
        patterns = self.patterns.up_to(targets.sizes, gap, POOL_LIMIT)
        if patterns is None or self.is_done:
            return
        pool = Pool(self.problem, priced.columns, patterns, self.upper, self.deadline)
        chosen = pool.solve()
        if chosen is not None:
            self.add_partition(chosen)
        self.lower = max(self.lower, min(pool.lower, self.upper))

    def _with_random(self, columns: Columns) -> Columns:
        count = max(STARTS, len(self.problem.sizes))
        return np.concatenate([columns, random_columns(self.problem, count, self.rng)])
