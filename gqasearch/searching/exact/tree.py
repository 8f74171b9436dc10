"""Exact pricing by branch and bound over groups of one size; nodes are rows of arrays."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gqasearch.searching.exact.pairwise_problem import Columns
from gqasearch.searching.problem import FloatArray

# Nodes expanded in one go: their arrays stay in the processor's cache.
CHUNK = 2048


@dataclass
class _Nodes:
    """Partial groups of equally many heads. Heads are named by their position in the order of branching.

    ``members`` (N, depth); ``cost`` (N,): reduced cost within the partial group; ``joining`` (N, H): what head j
    adds when it joins, ``inf`` where it cannot lead below the threshold; ``bound`` (N,): of every completion.
    """

    members: NDArray[np.int16]
    cost: FloatArray
    joining: FloatArray
    bound: FloatArray

    def take(self, rows: NDArray[np.bool_] | slice) -> _Nodes:
        return _Nodes(self.members[rows], self.cost[rows], self.joining[rows], self.bound[rows])


@dataclass
class Found:
    """``columns`` (N, H) with reduced cost ``reduced`` (N,) below the threshold; no group is below ``bound``.

    ``complete``: the columns are all there are below the threshold.
    """

    columns: Columns
    reduced: FloatArray
    bound: float
    complete: bool


class Tree:
    """Groups S of ``size`` heads with sum_{i<j in S} pair_ij - sum_{i in S} prices_i below ``threshold``."""

    def __init__(self, pair: FloatArray, prices: FloatArray, size: int, threshold: float) -> None:
        self.size, self.threshold = size, threshold
        root = np.partition(pair + np.diag(np.full(len(pair), np.inf)), size - 1, axis=1)[:, : size - 1].sum(1)
        # Heads that promise least come first: a branch that holds them is cut early, and the later branches
        # do not hold them.
        self.order = np.argsort(-(root / 2 - prices), kind="stable")
        self.pair = pair[np.ix_(self.order, self.order)]
        # Heads join in order: none before the last one does.
        self._behind = np.where(np.tri(len(pair), dtype=bool), np.inf, self.pair)
        self.prices = prices[self.order]
        self.nodes = 0
        self._tables: dict[tuple[int, float], FloatArray] = {}

    def search(self, deadline: float, limit: int) -> Found:
        """All groups below the threshold; at most ``limit`` of them, or what ``deadline`` leaves time for."""
        heads = len(self.prices)
        root = _Nodes(np.empty((1, 0), np.int16), np.zeros(1), -self.prices[None], np.full(1, -np.inf))
        stack = [self._bounded(root)]
        found: list[NDArray[np.int16]] = []
        reduced: list[FloatArray] = []
        count = 0
        while stack:
            if time.monotonic() >= deadline or count > limit:
                break
            nodes = stack.pop()
            if len(nodes.bound) > CHUNK:
                stack.append(nodes.take(slice(CHUNK, None)))
                nodes = nodes.take(slice(CHUNK))
            self.nodes += len(nodes.bound)
            children = self._children(nodes)
            if children.members.shape[1] == self.size:
                found.append(children.members)
                reduced.append(children.cost)
                count += len(children.cost)
            elif len(children.bound):
                stack.append(children)
        members = np.concatenate([*found, np.empty((0, self.size), np.int16)])
        values = np.concatenate([*reduced, np.empty(0)])
        columns = np.zeros((len(members), heads))
        np.put_along_axis(columns, self.order[members], 1.0, axis=1)
        bound = min(
            [self.threshold, *values.tolist(), *(float(nodes.bound.min()) for nodes in stack if len(nodes.bound))]
        )
        return Found(columns, values, bound, not stack)

    def _children(self, nodes: _Nodes) -> _Nodes:
        row, head = np.nonzero(np.isfinite(nodes.joining))
        depth = nodes.members.shape[1] + 1
        cost = nodes.cost[row] + nodes.joining[row, head]
        members = np.column_stack([nodes.members[row], head.astype(np.int16)])
        if depth == self.size:
            keep = cost < self.threshold
            return _Nodes(members[keep], cost[keep], np.empty((0, 0)), cost[keep])
        joining = nodes.joining[row] + self._behind[head]
        return self._bounded(_Nodes(members, cost, joining, nodes.bound[row]))

    def _bounded(self, nodes: _Nodes) -> _Nodes:
        """The nodes that may lead below the threshold, without the heads that may not."""
        togo = self.size - nodes.members.shape[1]
        if togo == 1:
            return replace(nodes, bound=nodes.cost + nodes.joining.min(1))
        for share in (0.0, 1.0):
            if not len(nodes.bound):
                break
            first = nodes.members[:, -1].astype(np.intp) + 1 if nodes.members.shape[1] else np.zeros(1, np.intp)
            score = nodes.joining + self._table(togo, share)[first]
            best = np.partition(score, togo - 1, axis=1)[:, :togo]
            bound = nodes.cost + best.sum(1)
            alive = bound < self.threshold
            nodes, score = replace(nodes, bound=np.maximum(nodes.bound, bound)).take(alive), score[alive]
            # A group with head j has j in the place of the dearest of the best.
            most = self.threshold - bound[alive] + best[alive, -1]
            nodes.joining[score >= most[:, None]] = np.inf
        return nodes

    def _table(self, togo: int, share: float) -> FloatArray:
        """(H + 1, H): least half sum over pairs of head j with togo - 1 heads at or behind position p."""
        key = (togo, share)
        if key not in self._tables:
            heads = len(self.prices)
            moved = share * self.prices
            pair = (self.pair - (moved[:, None] + moved) / (togo - 1)) / 2
            np.fill_diagonal(pair, np.inf)
            table = np.full((heads + 1, heads), np.inf)
            for first in range(heads - togo + 1):
                part = np.partition(pair[first:, first:], togo - 2, axis=1)[:, : togo - 1]
                table[first, first:] = part.sum(1) + moved[first:]
            self._tables[key] = table
        return self._tables[key]
