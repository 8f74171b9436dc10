"""The linear relaxation of the set-partitioning problem, solved by HiGHS."""

from __future__ import annotations

import time
from dataclasses import dataclass

import highspy
import numpy as np

from gqasearch.searching.exact.pairwise_problem import Columns, PairwiseProblem
from gqasearch.searching.exact.size_patterns import Patterns
from gqasearch.searching.problem import FloatArray

# HiGHS's default of 1e-7 makes a column generation loop: a column priced in at -1e-8 stays out of the basis.
TOLERANCE = 1e-10
# Of the interior point that looks for central prices.
CENTRAL_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Relaxed:
    """A solution of the relaxation.

    ``weights`` (N,) of the columns; ``counts`` (M,): groups of every size; ``heads`` (H,) and ``sizes`` (M,): duals.
    """

    weights: FloatArray
    counts: FloatArray
    heads: FloatArray
    sizes: FloatArray


class Master:
    """min c'x over groups and size patterns, warm-started after new columns.

    sum_{S with i} x_S = 1 for every head i; sum_{|S| = m} x_S = sum_v v_m z_v for every size m; sum_v z_v = 1.
    """

    def __init__(self, problem: PairwiseProblem, deadline: float) -> None:
        self._problem, self._deadline = problem, deadline
        self._solver = quiet_solver()
        self._solver.setOptionValue("presolve", "off")
        # New columns leave the basis primal feasible.
        self._solver.setOptionValue("simplex_strategy", 4)
        add_rows(self._solver, problem)
        self._known: set[bytes] = set()
        # Where the groups stand among the solver's columns, patterns between them.
        self._positions: list[int] = []
        self._size_index: list[int] = []
        self._columns: list[Columns] = []
        self._patterns: list[Patterns] = []

    def add(self, columns: Columns) -> int:
        """Add those of the groups that are new; how many were."""
        fresh = self._fresh(columns)
        if fresh:
            start = self._solver.getNumCol()
            self._positions += range(start, start + len(fresh))
            self._columns.append(columns[fresh])
            self._size_index += self._problem.size_index(columns[fresh]).tolist()
            add_groups(self._solver, self._problem, columns[fresh])
        return len(fresh)

    def add_pattern(self, pattern: Patterns) -> bool:
        """Add a size pattern, (M,), if it is new."""
        key = b"sizes" + pattern.tobytes()
        if key in self._known:
            return False
        self._known.add(key)
        self._patterns.append(pattern)
        add_patterns(self._solver, self._problem, pattern[None])
        return True

    @property
    def columns(self) -> Columns:
        """The groups added so far, (N, H)."""
        return np.concatenate(self._columns)

    def solve(self) -> Relaxed | None:
        """None when ``deadline`` (``time.monotonic``) left no time."""
        if run_until(self._solver, self._deadline) == highspy.HighsModelStatus.kTimeLimit:
            return None
        solution = self._solver.getSolution()
        duals = np.array(solution.row_dual)
        num_heads = self._problem.num_heads
        weights = np.array(solution.col_value)[self._positions]
        counts = np.bincount(self._size_index, weights, len(self._problem.sizes)).astype(np.float64)
        return Relaxed(weights, counts, duals[:num_heads], duals[num_heads:-1])

    def central_prices(self) -> FloatArray | None:
        """Dual prices of the heads, (H,), from the middle of the optimal ones; None when they were not found.

        Many prices are optimal, and simplex returns a corner of them, where many groups have reduced cost 0. An
        interior point without crossover stays away from all that it can: the branch and bound has less to list.
        """
        solver = quiet_solver()
        for option, value in (("solver", "ipx"), ("run_crossover", "off"), ("presolve", "off")):
            solver.setOptionValue(option, value)
        # Prices need only be near: bounds are computed for whatever prices there are.
        solver.setOptionValue("ipm_optimality_tolerance", CENTRAL_TOLERANCE)
        solver.setOptionValue("kkt_tolerance", CENTRAL_TOLERANCE)
        add_rows(solver, self._problem)
        add_groups(solver, self._problem, self.columns)
        add_patterns(solver, self._problem, np.array(self._patterns))
        run_until(solver, self._deadline)
        prices = np.array(solver.getSolution().row_dual)[: self._problem.num_heads]
        return prices if len(prices) == self._problem.num_heads and np.isfinite(prices).all() else None

    def _fresh(self, columns: Columns) -> list[int]:
        fresh = []
        for row, packed in enumerate(np.packbits(columns.astype(bool), axis=1)):
            key = packed.tobytes()
            if key not in self._known:
                self._known.add(key)
                fresh.append(row)
        return fresh


def quiet_solver() -> highspy.Highs:
    """HiGHS: silent, one thread, tight tolerances."""
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    for option, value in (
        ("output_flag", False),
        ("threads", 1),
        ("random_seed", 0),
        ("primal_feasibility_tolerance", TOLERANCE),
        ("dual_feasibility_tolerance", TOLERANCE),
    ):
        solver.setOptionValue(option, value)
    return solver


def run_until(solver: highspy.Highs, deadline: float) -> highspy.HighsModelStatus:
    """Solve, but not beyond ``deadline`` (``time.monotonic``)."""
    # HiGHS counts the time of all runs together.
    solver.setOptionValue("time_limit", solver.getRunTime() + max(deadline - time.monotonic(), 0.0))
    solver.run()
    return solver.getModelStatus()


def add_rows(solver: highspy.Highs, problem: PairwiseProblem) -> None:
    """A row per head, a row per size, and one that counts the patterns; no columns yet."""
    right = np.concatenate([np.ones(problem.num_heads), np.zeros(len(problem.sizes)), [1.0]])
    starts = np.zeros(len(right), dtype=np.int32)
    solver.addRows(len(right), right, right, 0, starts, np.empty(0, dtype=np.int32), np.empty(0))


def add_groups(solver: highspy.Highs, problem: PairwiseProblem, columns: Columns) -> None:
    """A variable for every group, (N, H), behind those that are there."""
    of_size = columns.sum(1)[:, None] == np.array(problem.sizes)
    matrix = np.column_stack([columns, of_size, np.zeros(len(columns))])
    _add_columns(solver, matrix, problem.costs(columns))


def add_patterns(solver: highspy.Highs, problem: PairwiseProblem, patterns: Patterns) -> None:
    """A variable for every size pattern, (K, M), behind those that are there."""
    count = len(patterns)
    matrix = np.column_stack([np.zeros((count, problem.num_heads)), -patterns, np.ones(count)])
    _add_columns(solver, matrix, np.zeros(count))


def _add_columns(solver: highspy.Highs, matrix: FloatArray, costs: FloatArray) -> None:
    """Columns of the constraint matrix, given as rows, (N, rows of the solver); no upper bounds: the rows imply 1."""
    count = len(matrix)
    columns, rows = np.nonzero(matrix)
    starts = np.searchsorted(columns, np.arange(count)).astype(np.int32)
    bounds = np.zeros(count), np.full(count, np.inf)
    values = matrix[columns, rows]
    solver.addCols(count, costs, *bounds, len(rows), starts, rows.astype(np.int32), values)
