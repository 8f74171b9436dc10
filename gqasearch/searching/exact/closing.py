"""The best partition out of a complete pool of groups: branch and cut, with reduced-cost fixing in every node.

Subset-row cuts on three heads: Jepsen, Petersen, Spoorendonk, Pisinger 2008, https://doi.org/10.1287/opre.1070.0449.
Branching on pairs of heads: Ryan, Foster 1981, "An integer programming approach to scheduling". The pool is explicit,
so cuts and branches cost the pricing nothing. HiGHS's own integer solver is not used: with thousands of groups that
overlap everywhere it spends minutes on cliques and conflicts, and looks at no clock meanwhile.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass, field

import highspy
import numpy as np
from numpy.typing import NDArray

from gqasearch.searching.exact.master import add_groups, add_patterns, add_rows, quiet_solver, run_until
from gqasearch.searching.exact.pairwise_problem import Columns, PairwiseProblem
from gqasearch.searching.exact.size_patterns import ListedPatterns, Patterns
from gqasearch.searching.problem import FloatArray

# Cuts added in one round, and the violation that makes a cut worth adding.
CUTS = 60
LEAST_VIOLATION = 1e-3
# Rounds of cuts: at the root, and in every other node.
ROOT_ROUNDS, ROUNDS = 60, 5
# What rounding may do to a bound, in the units of the column generation, and to a weight.
ROUNDING = 1e-9
FRACTIONAL = 1e-6

SETTLED = (
    highspy.HighsModelStatus.kOptimal,
    highspy.HighsModelStatus.kInfeasible,
    highspy.HighsModelStatus.kTimeLimit,
)

Mask = NDArray[np.bool_]


@dataclass(order=True)
class _Node:
    """Some of the groups and size patterns, ``groups`` (N,) and ``patterns`` (K,); no partition is below ``bound``."""

    bound: float
    groups: Mask = field(compare=False)
    patterns: Mask = field(compare=False)


class Pool:
    """Groups (N, H), among them all of every partition that costs less than ``upper``.

    ``patterns``: all size patterns of such partitions, (K, M). ``lower``: a bound of what such partitions cost, at
    most ``upper``, the cost of the best partition known.
    """

    def __init__(
        self, problem: PairwiseProblem, columns: Columns, patterns: Patterns, upper: float, deadline: float
    ) -> None:
        self._problem, self._columns, self._deadline = problem, columns, deadline
        self._patterns = ListedPatterns(patterns)
        self.upper, self.lower = upper, -np.inf
        self.nodes = 0
        self._best: Columns | None = None
        self._costs, self._size_index = problem.costs(columns), problem.size_index(columns)
        # Heads of every cut, (C, 3), and the groups that it counts, (N, C).
        self._cuts: NDArray[np.intp] = np.empty((0, 3), dtype=np.intp)
        self._hits = cut_hits(columns, self._cuts)
        # In the solver the patterns stand before the groups.
        self._before = len(patterns)
        self._solver = quiet_solver()
        add_rows(self._solver, problem)
        add_patterns(self._solver, problem, patterns)
        add_groups(self._solver, problem, columns)

    def solve(self) -> Columns | None:
        """The cheapest partition, (G, H), or None when none is below ``upper`` or time ran out; sets ``lower``."""
        root = _Node(-np.inf, np.ones(len(self._columns), dtype=bool), np.ones(self._before, dtype=bool))
        queue, closed = [root], self.upper
        while queue and queue[0].bound < self.upper - 2 * ROUNDING:
            if time.monotonic() >= self._deadline:
                break
            node = heapq.heappop(queue)
            children = self._bounded(node, ROUNDS if self.nodes else ROOT_ROUNDS)
            self.nodes += 1
            if not children:
                closed = min(closed, node.bound)
            for child in children:
                heapq.heappush(queue, child)
        self.lower = min([closed, self.upper, *(node.bound for node in queue)])
        return self._best

    def _bounded(self, node: _Node, rounds: int) -> list[_Node]:
        """Raise the node's bound; its children, or the node itself where time ran out, or nothing when it is done."""
        for last in [False] * (rounds - 1) + [True]:
            status = self._run(node)
            if status == highspy.HighsModelStatus.kInfeasible:
                node.bound = self.upper
                return []
            if status != highspy.HighsModelStatus.kOptimal:
                return [node] if status == highspy.HighsModelStatus.kTimeLimit else []
            solution = self._solver.getSolution()
            values = np.array(solution.col_value)
            weights = values[self._before :]
            self._bound_and_fix(node, np.array(solution.row_dual))
            branches = self._branches(node, weights, values[: self._before])
            if not branches:
                self._take(self._columns[weights > 0.5])
            if not branches or node.bound >= self.upper - 2 * ROUNDING:
                return []
            cuts = violated_cuts(self._columns, weights)
            if last or not len(cuts):
                return branches
            if not self.nodes:
                node.groups = self._compact(node.groups)
            self._add(cuts)
        return []

    def _run(self, node: _Node) -> highspy.HighsModelStatus:
        """Solve the relaxation over the node's groups and patterns, from the basis of the node before."""
        allowed = np.concatenate([node.patterns, node.groups])
        count = len(allowed)
        bounds = np.zeros(count), np.where(allowed, np.inf, 0.0)
        self._solver.changeColsBounds(count, np.arange(count, dtype=np.int32), *bounds)
        status = run_until(self._solver, self._deadline)
        if status not in SETTLED:
            # The basis was of no use.
            self._solver.clearSolver()
            status = run_until(self._solver, self._deadline)
        return status

    def _bound_and_fix(self, node: _Node, duals: FloatArray) -> None:
        """Raise the bound to the Lagrangian one; drop the groups and patterns that no better partition holds."""
        heads = duals[: self._problem.num_heads]
        cuts = np.minimum(duals[len(duals) - len(self._cuts) :], 0.0)
        reduced = self._costs - self._columns @ heads - self._hits @ cuts
        least = np.full(len(self._problem.sizes), np.inf)
        np.minimum.at(least, self._size_index[node.groups], reduced[node.groups])
        paid = float(heads.sum() + cuts.sum())
        patterns = ListedPatterns(self._patterns.listed[node.patterns])
        costs = paid + patterns.costs(least)
        node.bound = max(node.bound, min(float(costs.min()) - ROUNDING, self.upper))
        limit = self.upper + self._problem.num_groups * ROUNDING
        with_group = paid + reduced + patterns.with_size(least)[self._size_index]
        node.groups = node.groups & (with_group <= limit)
        node.patterns = node.patterns.copy()
        node.patterns[node.patterns] = costs <= limit

    def _branches(self, node: _Node, weights: FloatArray, of_patterns: FloatArray) -> list[_Node]:
        """Children without the fractional solution: by the number of groups of some sizes, else by a pair of heads."""
        few = self._patterns.split(of_patterns @ self._patterns.listed)
        if few is not None:
            halves = node.patterns & few, node.patterns & ~few
            return [_Node(node.bound, node.groups, half) for half in halves if half.any()]
        used = weights > FRACTIONAL
        support = self._columns[used]
        together = (support * weights[used, None]).T @ support
        fraction = np.triu(np.minimum(together, 1 - together), 1)
        one, two = np.unravel_index(int(fraction.argmax()), fraction.shape)
        if fraction[one, two] <= FRACTIONAL:
            return []
        held = self._columns[:, one] + self._columns[:, two]
        return [_Node(node.bound, node.groups & side, node.patterns) for side in (held != 1, held != 2)]

    def _take(self, chosen: Columns) -> None:
        """The node's relaxation is a partition."""
        covered = len(chosen) == self._problem.num_groups and bool((chosen.sum(0) == 1).all())
        cost = float(self._problem.costs(chosen).sum())
        if covered and cost < self.upper:
            self._best, self.upper = chosen, cost

    def _compact(self, keep: Mask) -> Mask:
        """Drop groups for good; for the root."""
        if not keep.all():
            positions = (np.flatnonzero(~keep) + self._before).astype(np.int32)
            self._solver.deleteCols(len(positions), positions)
            self._columns, self._costs, self._hits = self._columns[keep], self._costs[keep], self._hits[keep]
            self._size_index = self._size_index[keep]
        return np.ones(len(self._columns), dtype=bool)

    def _add(self, cuts: NDArray[np.intp]) -> None:
        hits = cut_hits(self._columns, cuts)
        rows, columns = np.nonzero(hits.T)
        starts = np.searchsorted(rows, np.arange(len(cuts))).astype(np.int32)
        bounds = np.full(len(cuts), -np.inf), np.ones(len(cuts))
        positions = (columns + self._before).astype(np.int32)
        self._solver.addRows(len(cuts), *bounds, len(rows), starts, positions, np.ones(len(rows)))
        self._cuts = np.concatenate([self._cuts, cuts])
        self._hits = np.concatenate([self._hits, hits], axis=1)


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
