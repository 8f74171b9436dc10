"""The best partition out of a complete pool of groups: cuts, reduced-cost fixing, then an integer program.

Subset-row cuts on three heads: Jepsen, Petersen, Spoorendonk, Pisinger 2008, https://doi.org/10.1287/opre.1070.0449.
The pool is explicit, so cuts cost the pricing nothing.
"""

from __future__ import annotations

import time

import highspy
import numpy as np
from numpy.typing import NDArray

from gqasearch.search.exact.master import add_groups, add_patterns, add_rows, quiet_solver
from gqasearch.search.exact.pairwise import Columns, PairwiseProblem
from gqasearch.search.exact.size_patterns import Patterns, SizePatterns
from gqasearch.search.problem import FloatArray

# A pool this small goes to the integer program at once.
SMALL_POOL = 300
# Cuts added in one round, rounds at most, and the violation that makes a cut worth adding.
CUTS = 60
ROUNDS = 60
LEAST_VIOLATION = 1e-3
# What rounding may do to a bound, in the units of the column generation.
ROUNDING = 1e-9


class Pool:
    """Groups (N, H), among them all of every partition that costs less than ``upper``.

    ``patterns``: all size patterns of such partitions, (K, M). ``lower``: a bound of what such partitions cost, at
    most ``upper``.
    """

    def __init__(
        self, problem: PairwiseProblem, columns: Columns, patterns: Patterns, upper: float, deadline: float
    ) -> None:
        self._problem, self._columns, self._upper, self._deadline = problem, columns, upper, deadline
        self.lower = -np.inf
        self._costs = problem.costs(columns)
        self._patterns = SizePatterns(problem.num_heads, problem.num_groups, problem.sizes)
        # Heads of every cut, (C, 3).
        self._cuts: NDArray[np.intp] = np.empty((0, 3), dtype=np.intp)
        # In the solver the patterns stand before the groups.
        self._before = len(patterns)
        self._solver = quiet_solver()
        add_rows(self._solver, problem)
        add_patterns(self._solver, problem, patterns)
        add_groups(self._solver, problem, columns)

    def solve(self) -> Columns | None:
        """The cheapest partition, (G, H), or None when none is below ``upper`` or time ran out; sets ``lower``."""
        for _ in range(ROUNDS):
            status = self._run()
            if status == highspy.HighsModelStatus.kInfeasible:
                self.lower = self._upper
            if status != highspy.HighsModelStatus.kOptimal:
                return None
            solution = self._solver.getSolution()
            weights = np.array(solution.col_value)[self._before :]
            cuts = violated_cuts(self._columns, weights)
            self._bound_and_fix(np.array(solution.row_dual))
            if self._upper - self.lower <= 2 * ROUNDING:
                return None
            if len(self._columns) <= SMALL_POOL or not len(cuts):
                break
            self._add(cuts)
        return self._solve_integers()

    def _run(self) -> highspy.HighsModelStatus:
        self._solver.setOptionValue("time_limit", max(self._deadline - time.monotonic(), 0.0))
        self._solver.run()
        return self._solver.getModelStatus()

    def _bound_and_fix(self, duals: FloatArray) -> None:
        """Raise ``lower`` to the Lagrangian bound, and drop the groups that no better partition holds."""
        heads = duals[: self._problem.num_heads]
        cuts = np.minimum(duals[len(duals) - len(self._cuts) :], 0.0)
        reduced = self._costs - self._columns @ heads - cut_hits(self._columns, self._cuts) @ cuts
        index = self._problem.size_index(self._columns)
        least = np.full(len(self._problem.sizes), np.inf)
        np.minimum.at(least, index, reduced)
        paid = float(heads.sum() + cuts.sum())
        self.lower = max(self.lower, min(paid + self._patterns.cheapest(least)[0] - ROUNDING, self._upper))
        with_group = paid + reduced + self._patterns.with_size(least)[index]
        useless = with_group > self._upper + self._problem.num_groups * ROUNDING
        if useless.any():
            positions = (np.flatnonzero(useless) + self._before).astype(np.int32)
            self._solver.deleteCols(len(positions), positions)
            self._columns, self._costs = self._columns[~useless], self._costs[~useless]

    def _add(self, cuts: NDArray[np.intp]) -> None:
        rows, columns = np.nonzero(cut_hits(self._columns, cuts).T)
        starts = np.searchsorted(rows, np.arange(len(cuts))).astype(np.int32)
        bounds = np.full(len(cuts), -np.inf), np.ones(len(cuts))
        positions = (columns + self._before).astype(np.int32)
        self._solver.addRows(len(cuts), *bounds, len(rows), starts, positions, np.ones(len(rows)))
        self._cuts = np.concatenate([self._cuts, cuts])

    def _solve_integers(self) -> Columns | None:
        solver = self._solver
        # Gaps are closed to the tolerance of the certificate, not to HiGHS's 1e-4.
        for option, value in (("mip_rel_gap", 0.0), ("mip_abs_gap", 0.0), ("mip_feasibility_tolerance", 1e-9)):
            solver.setOptionValue(option, value)
        count = solver.getNumCol()
        solver.changeColsIntegrality(count, np.arange(count, dtype=np.int32), np.ones(count, dtype=np.uint8))
        status, info = self._run(), solver.getInfo()
        if status == highspy.HighsModelStatus.kInfeasible:
            self.lower = self._upper
            return None
        optimal = status == highspy.HighsModelStatus.kOptimal
        bound = float(info.objective_function_value if optimal else info.mip_dual_bound)
        self.lower = max(self.lower, min(bound, self._upper))
        weights = np.array(solver.getSolution().col_value)[self._before :]
        chosen = self._columns[weights > 0.5] if len(weights) else self._columns[:0]
        covered = len(chosen) == self._problem.num_groups and bool((chosen.sum(0) == 1).all())
        return chosen if covered else None


def cut_hits(columns: Columns, cuts: NDArray[np.intp]) -> FloatArray:
    """1 where a group holds two or three of the heads of a cut, (N, C)."""
    return np.asarray(columns[:, cuts].sum(2) >= 2, dtype=np.float64)


def violated_cuts(columns: Columns, weights: FloatArray) -> NDArray[np.intp]:
    """Heads (C, 3) of which groups that hold two or more weigh more than 1 together: in a partition, one can."""
    used = weights > LEAST_VIOLATION
    support, weights = columns[used], weights[used]
    weighted = support * weights[:, None]
    pairs = weighted.T @ support
    triples = np.einsum("ni,nj,nk->ijk", weighted, support, support, optimize=True)
    violation = pairs[:, :, None] + pairs[:, None, :] + pairs[None, :, :] - 2 * triples - 1
    heads = np.arange(columns.shape[1])
    ordered = (heads[:, None] < heads)[:, :, None] & (heads[:, None] < heads)[None, :, :]
    cuts = np.argwhere(ordered & (violation > LEAST_VIOLATION))
    worst = np.argsort(-violation[tuple(cuts.T)], kind="stable")[:CUTS]
    return cuts[worst]
