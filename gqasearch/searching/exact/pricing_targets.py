"""What exact pricing has to prove: a least reduced cost for every group size."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, inf, log

import highspy
import numpy as np

from gqasearch.searching.exact.master import quiet_solver
from gqasearch.searching.exact.pairwise_problem import PairwiseProblem
from gqasearch.searching.exact.size_patterns import Patterns, PatternSet
from gqasearch.searching.problem import FloatArray

# Patterns that the search for targets may take up.
MOST_PATTERNS = 200
# Targets this near to the full bound are good enough; the rest is left to the integer problem.
SLACK = 1e-7


@dataclass(frozen=True)
class Targets:
    """Prices of the heads, (H,), and the reduced cost that groups of each size are to be held to, (M,)."""

    heads: FloatArray
    sizes: FloatArray


def easiest_targets(
    problem: PairwiseProblem, patterns: PatternSet, least: FloatArray, enough: float = inf
) -> FloatArray:
    """Targets, (M,), at most ``least``, that give the same bound and are as low as can be where proof is hard.

    A bound above ``enough`` is not asked for. ``least``: the lowest reduced cost known of each size, (M,). Only sizes
    that stand together in a cheapest pattern need their full target. A target costs more to prove the more groups have
    its size, so those are lowered first: a small linear program, with the patterns it must respect taken up as they
    are violated.
    """
    bound, pattern = patterns.cheapest(least)
    bound = min(bound, enough)
    if len(least) == 1:
        return least
    effort = np.array([1 + log(comb(problem.num_heads, size)) for size in problem.sizes]) ** 4
    solver = quiet_solver()
    solver.setOptionValue("presolve", "off")
    # Far below any target: without a floor, a size that no pattern holds yet is unbounded.
    floor = least - 10 * (float(np.abs(least).max()) + 1)
    nothing = np.empty(0, dtype=np.int32)
    starts = np.zeros(len(least), dtype=np.int32)
    solver.addCols(len(least), effort / effort.max(), floor, least, 0, starts, nothing, np.empty(0))
    targets = least
    for _ in range(MOST_PATTERNS):
        _require(solver, pattern, bound)
        solver.run()
        targets = np.minimum(np.array(solver.getSolution().col_value), least)
        value, pattern = patterns.cheapest(targets)
        if value >= bound - SLACK:
            return np.asarray(targets, dtype=np.float64)
    return least


def _require(solver: highspy.Highs, pattern: Patterns, bound: float) -> None:
    """This pattern is to cost at least the bound."""
    used = np.flatnonzero(pattern).astype(np.int32)
    solver.addRow(bound, np.inf, len(used), used, pattern[used])
