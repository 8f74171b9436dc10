"""Column generation over some size patterns: the relaxation, its bound, and the integer problem where it fits."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from gqasearch.searching.exact.closing import Pool
from gqasearch.searching.exact.local_pricing import random_columns, search_columns
from gqasearch.searching.exact.master import Master, Relaxed
from gqasearch.searching.exact.multi_start import descend, random_labels
from gqasearch.searching.exact.pairwise_problem import Columns, PairwiseProblem
from gqasearch.searching.exact.pricing import Priced, make_pricer
from gqasearch.searching.exact.pricing_targets import Targets, easiest_targets
from gqasearch.searching.exact.size_patterns import ListedPatterns, SizePatterns
from gqasearch.searching.problem import FloatArray

# What rounding may do to a reduced cost, a threshold or a bound, in those units.
ROUNDING = 1e-9
# Random starts of a descent, and of a heuristic pricing.
STARTS = 64
# Size patterns that are listed, to be split or for the integer problem.
PATTERN_LIMIT = 100_000
# Groups added to the master after one pricing.
BATCH = 400
# Rounds of perturbation in a row that may find nothing better.
IDLE_ROUNDS = 3


class Branch:
    """One solution under way, in scaled units: the best partition, its cost ``upper``, and the bound ``lower``.

    The bound is of partitions with one of the ``patterns`` of sizes; the best partition may have another.
    ``unlisted``: the relaxation is solved, but too many groups fit into the gap that it leaves.
    """

    def __init__(
        self,
        problem: PairwiseProblem,
        patterns: SizePatterns | ListedPatterns,
        start: Columns,
        deadline: float,
        rng: np.random.Generator,
    ) -> None:
        self.problem, self.patterns, self.deadline, self.rng = problem, patterns, deadline, rng
        self.best, self.upper, self.lower = start, float(problem.costs(start).sum()), 0.0
        self.master = Master(problem, deadline)
        self.counts = np.zeros(len(problem.sizes))
        self.unlisted = False
        self.add_partition(start)

    def split(self, best: Columns) -> list[Branch]:
        """Two halves of the patterns, neither with the mixture that the relaxation uses; itself when it uses none.

        ``best``: the best partition known.
        """
        patterns = self.patterns
        if isinstance(patterns, SizePatterns):
            listed = patterns.up_to(np.zeros(len(self.problem.sizes)), 0.0, PATTERN_LIMIT, self.deadline)
            if listed is None:
                return [self]
            patterns = ListedPatterns(listed)
        few = patterns.split(self.counts)
        if few is None:
            return [self]
        halves = [ListedPatterns(patterns.listed[side]) for side in (few, ~few)]
        return [self._child(half, best) for half in halves]

    def _child(self, patterns: ListedPatterns, best: Columns) -> Branch:
        """A branch with these patterns, which knows all groups that this one knows."""
        child = Branch(self.problem, patterns, best, self.deadline, self.rng)
        child.lower = self.lower
        child.master.add(self.master.columns)
        # A partition with one of the patterns makes the relaxation feasible.
        _, pattern = patterns.cheapest(np.zeros(len(self.problem.sizes)))
        sizes = np.repeat(self.problem.sizes, pattern.astype(int))
        labels = self.rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
        child.add_partition((labels == np.arange(len(sizes))[:, None]).astype(np.float64))
        return child

    def diversify(self) -> None:
        """Groups of many local optima for the relaxation to begin with."""
        for optimum in descend(self.problem, random_labels(self.problem, STARTS, self.rng), self.deadline):
            self.add_partition(optimum)

    @property
    def is_done(self) -> bool:
        return self.upper - self.lower <= ROUNDING or time.monotonic() >= self.deadline

    def add_partition(self, columns: Columns) -> None:
        """Its groups and sizes go into the master; it may be the best so far."""
        self.master.add(columns)
        pattern = (columns.sum(1)[:, None] == np.array(self.problem.sizes)).sum(0).astype(np.float64)
        if self.patterns.allows(pattern):
            self.master.add_pattern(pattern)
        cost = float(self.problem.costs(columns).sum())
        if cost < self.upper:
            self.best, self.upper = columns, cost

    def solve(self, limit: int) -> None:
        """Generate groups until the relaxation lacks none, then close the gap, with at most ``limit`` groups."""
        pricer = None
        while not self.is_done:
            relaxed = self.solve_relaxation()
            if relaxed is None:
                return
            if self.add_promising(relaxed):
                continue
            targets = self.set_targets(relaxed)
            if targets is None:
                continue
            self.perturb()
            pricer = pricer or make_pricer(self.problem)
            priced = pricer.price(targets.heads, self.thresholds(targets), self.deadline, limit)
            self.raise_lower(targets, priced)
            if not priced.complete:
                # The gap is too wide to list all that fits into it: at least solve the relaxation.
                priced = pricer.price(targets.heads, targets.sizes - ROUNDING, self.deadline, limit)
                self.raise_lower(targets, priced)
                priced = replace(priced, complete=False)
            if self.add_violated(targets, priced):
                continue
            if priced.complete:
                self.close(targets, priced)
            self.counts, self.unlisted = relaxed.counts, not priced.complete
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
            for optimum in descend(self.problem, starts, self.deadline):
                self.add_partition(optimum)
            idle = 0 if self.upper < before - ROUNDING else idle + 1

    def solve_relaxation(self) -> Relaxed | None:
        """The relaxation over the groups known, and over all size patterns; None when time ran out."""
        while True:
            relaxed = self.master.solve()
            if relaxed is None:
                return None
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
        """Prices to prove; None when the relaxation lacks groups or a pattern, which were added."""
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
        # At these prices other patterns may be cheapest than at the corner that simplex returns.
        if self.master.add_pattern(self.patterns.cheapest(least)[1]):
            return None
        enough = self.upper - float(heads.sum()) + self.problem.num_groups * ROUNDING
        return Targets(heads, easiest_targets(self.problem, self.patterns, least, enough))

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
        patterns = self.patterns.up_to(targets.sizes, gap, PATTERN_LIMIT, self.deadline)
        if patterns is None or self.is_done:
            return
        if not len(patterns):
            self.lower = self.upper
            return
        pool = Pool(self.problem, priced.columns, patterns, self.upper, self.deadline)
        chosen = pool.solve()
        if chosen is not None:
            self.add_partition(chosen)
        self.lower = max(self.lower, min(pool.lower, self.upper))

    def _with_random(self, columns: Columns) -> Columns:
        count = max(STARTS, len(self.problem.sizes))
        return np.concatenate([columns, random_columns(self.problem, count, self.rng)])
