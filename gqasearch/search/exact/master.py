"""The set-partitioning master problem: its linear relaxation, and the integer problem over given columns."""

from __future__ import annotations

from dataclasses import dataclass

import highspy
import numpy as np

from gqasearch.search.exact.pairwise import Columns, PairwiseProblem
from gqasearch.search.exact.size_patterns import Patterns
from gqasearch.search.problem import FloatArray

# HiGHS's default of 1e-7 makes a column generation loop: a column priced in at -1e-8 stays out of the basis.
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Relaxed:
    """A solution of the relaxation. ``weights`` (N,) of the columns; ``heads`` (H,) and ``sizes`` (M,): duals."""

    weights: FloatArray
    heads: FloatArray
    sizes: FloatArray


class Master:
    """min c'x over groups and size patterns, warm-started after new columns.

    sum_{S with i} x_S = 1 for every head i; sum_{|S| = m} x_S = sum_v v_m z_v for every size m; sum_v z_v = 1.
    """

    def __init__(self, problem: PairwiseProblem) -> None:
        self._problem = problem
        self._solver = _quiet_solver()
        self._solver.setOptionValue("presolve", "off")
        # New columns leave the basis primal feasible.
        self._solver.setOptionValue("simplex_strategy", 4)
        _add_rows(self._solver, problem)
        self._known: set[bytes] = set()
        # Where the groups stand among the solver's columns, patterns between them.
        self._positions: list[int] = []
        self._columns: list[Columns] = []

    def add(self, columns: Columns) -> int:
        """Add those of the groups that are new; how many were."""
        fresh = self._fresh(columns)
        if fresh:
            start = self._solver.getNumCol()
            self._positions += range(start, start + len(fresh))
            self._columns.append(columns[fresh])
            _add_groups(self._solver, self._problem, columns[fresh], np.inf)
        return len(fresh)

    def add_pattern(self, pattern: Patterns) -> bool:
        """Add a size pattern, (M,), if it is new."""
        key = b"sizes" + pattern.tobytes()
        if key in self._known:
            return False
        self._known.add(key)
        _add_patterns(self._solver, self._problem, pattern[None], np.inf)
        return True

    @property
    def columns(self) -> Columns:
        """The groups added so far, (N, H)."""
        return np.concatenate(self._columns)

    def solve(self) -> Relaxed:
        self._solver.run()
        solution = self._solver.getSolution()
        duals = np.array(solution.row_dual)
        num_heads = self._problem.num_heads
        return Relaxed(np.array(solution.col_value)[self._positions], duals[:num_heads], duals[num_heads:-1])

    def _fresh(self, columns: Columns) -> list[int]:
        fresh = []
        for row, packed in enumerate(np.packbits(columns.astype(bool), axis=1)):
            key = packed.tobytes()
            if key not in self._known:
                self._known.add(key)
                fresh.append(row)
        return fresh


def solve_partitioning(
    problem: PairwiseProblem, columns: Columns, patterns: Patterns, cutoff: float, time_limit: float
) -> tuple[Columns | None, float]:
    """The cheapest partition out of these groups with one of these size patterns, and a lower bound of its cost.

    Partitions dearer than ``cutoff`` are of no use. None when there is none, or none was found in ``time_limit``
    seconds; the bound is ``inf`` when there is none.
    """
    solver = _quiet_solver()
    # Gaps are closed to the tolerance of the certificate, not to HiGHS's 1e-4.
    for option, value in (
        ("mip_rel_gap", 0.0),
        ("mip_abs_gap", 0.0),
        ("mip_feasibility_tolerance", 1e-9),
        ("objective_bound", cutoff),
        ("time_limit", max(time_limit, 0.0)),
    ):
        solver.setOptionValue(option, value)
    _add_rows(solver, problem)
    _add_groups(solver, problem, columns, 1.0)
    _add_patterns(solver, problem, patterns, 1.0)
    count = solver.getNumCol()
    solver.changeColsIntegrality(count, np.arange(count, dtype=np.int32), np.ones(count, dtype=np.uint8))
    solver.run()
    status, info = solver.getModelStatus(), solver.getInfo()
    if status == highspy.HighsModelStatus.kInfeasible:
        return None, np.inf
    optimal = status == highspy.HighsModelStatus.kOptimal
    bound = float(info.objective_function_value if optimal else info.mip_dual_bound)
    chosen = columns[np.array(solver.getSolution().col_value)[: len(columns)] > 0.5]
    covered = len(chosen) == problem.num_groups and bool((chosen.sum(0) == 1).all())
    return (chosen if covered else None), bound


def _quiet_solver() -> highspy.Highs:
    solver = highspy.Highs()
    for option, value in (
        ("output_flag", False),
        ("threads", 1),
        ("random_seed", 0),
        ("primal_feasibility_tolerance", TOLERANCE),
        ("dual_feasibility_tolerance", TOLERANCE),
    ):
        solver.setOptionValue(option, value)
    return solver


def _add_rows(solver: highspy.Highs, problem: PairwiseProblem) -> None:
    """A row per head, a row per size, and one that counts the patterns; no columns yet."""
    right = np.concatenate([np.ones(problem.num_heads), np.zeros(len(problem.sizes)), [1.0]])
    starts = np.zeros(len(right), dtype=np.int32)
    solver.addRows(len(right), right, right, 0, starts, np.empty(0, dtype=np.int32), np.empty(0))


def _add_groups(solver: highspy.Highs, problem: PairwiseProblem, columns: Columns, upper: float) -> None:
    of_size = columns.sum(1)[:, None] == np.array(problem.sizes)
    matrix = np.column_stack([columns, of_size, np.zeros(len(columns))])
    _add_columns(solver, matrix, problem.costs(columns), upper)


def _add_patterns(solver: highspy.Highs, problem: PairwiseProblem, patterns: Patterns, upper: float) -> None:
    count = len(patterns)
    matrix = np.column_stack([np.zeros((count, problem.num_heads)), -patterns, np.ones(count)])
    _add_columns(solver, matrix, np.zeros(count), upper)


def _add_columns(solver: highspy.Highs, matrix: FloatArray, costs: FloatArray, upper: float) -> None:
    """Columns of the constraint matrix, given as rows, (N, rows of the solver)."""
    count = len(matrix)
    columns, rows = np.nonzero(matrix)
    starts = np.searchsorted(columns, np.arange(count)).astype(np.int32)
    bounds = np.zeros(count), np.full(count, upper)
    values = matrix[columns, rows]
    solver.addCols(count, costs, *bounds, len(rows), starts, rows.astype(np.int32), values)
