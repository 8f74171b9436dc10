"""Heuristic pricing: local search over groups for columns of low reduced cost, all starts at once."""

from __future__ import annotations

import numpy as np

from gqasearch.searching.exact.pairwise_problem import Columns, PairwiseProblem
from gqasearch.searching.problem import FloatArray
from gqasearch.searching.walk import LEAST_GAIN


def search_columns(
    problem: PairwiseProblem, prices: FloatArray, size_prices: FloatArray, starts: Columns
) -> tuple[Columns, FloatArray]:
    """Groups that no head added, dropped or exchanged makes cheaper, and their reduced costs.

    That is c(S) less the prices of their heads, (H,), and of their size, (M,). ``starts``: (P, H), of possible
    sizes. Different groups only, cheapest first.
    """
    columns = np.unique(starts, axis=0)
    # By size itself, with a dummy on both sides: flips beyond the bounds are looked up, then forbidden.
    by_size = np.zeros(problem.num_heads + 2)
    by_size[problem.sizes[0] : problem.sizes[-1] + 1] = size_prices
    least = LEAST_GAIN * max(float(problem.excess.max(initial=0.0)), float(np.abs(prices).max()))
    active = np.arange(len(columns))
    while len(active):
        change, better = _best_neighbour(problem, prices, by_size, columns[active])
        improved = change < -least
        active = active[improved]
        columns[active] = better[improved]
    columns = np.unique(columns, axis=0)
    reduced = problem.costs(columns) - columns @ prices - by_size[columns.sum(1).astype(np.intp)]
    order = np.argsort(reduced, kind="stable")
    return columns[order], reduced[order]


def random_columns(problem: PairwiseProblem, count: int, rng: np.random.Generator) -> Columns:
    """``count`` random groups, (count, H), as many of every possible size."""
    sizes = np.resize(np.array(problem.sizes), count)
    ranks = rng.random((count, problem.num_heads)).argsort(1)
    return (ranks < sizes[:, None]).astype(np.float64)


def _best_neighbour(
    problem: PairwiseProblem, prices: FloatArray, by_size: FloatArray, columns: Columns
) -> tuple[FloatArray, Columns]:
    """Change of the reduced cost by each column's best neighbour, (P,), and the neighbours, (P, H)."""
    count, num_heads = columns.shape
    rows = np.arange(count)
    inside = columns.astype(bool)
    size = columns.sum(1)[:, None]
    to_group = columns @ problem.excess
    pairs = np.einsum("ph,ph->p", to_group, columns)[:, None] / 2
    cost = pairs / size
    index = size.astype(np.intp)
    grown = (pairs + to_group) / (size + 1) - cost - prices + by_size[index] - by_size[index + 1]
    shrunk = (pairs - to_group) / np.maximum(size - 1, 1) - cost + prices + by_size[index] - by_size[index - 1]
    flips = np.where(inside, shrunk, grown)
    flips[np.where(inside, size <= problem.sizes[0], size >= problem.sizes[-1])] = np.inf
    flip = flips.argmin(1)
    flip_change = flips[rows, flip]
    # swaps[p, i, j]: head i leaves, head j comes.
    balance = to_group / size - prices
    swaps = balance[:, None, :] - balance[:, :, None] - problem.excess / size[:, :, None]
    swaps[~(inside[:, :, None] & ~inside[:, None, :])] = np.inf
    swap = swaps.reshape(count, -1).argmin(1)
    swap_change = swaps.reshape(count, -1)[rows, swap]
    after = columns.copy()
    flipped = flip_change <= swap_change
    after[rows[flipped], flip[flipped]] = 1 - after[rows[flipped], flip[flipped]]
    leaves, comes = np.divmod(swap, num_heads)
    after[rows[~flipped], leaves[~flipped]] = 0.0
    after[rows[~flipped], comes[~flipped]] = 1.0
    return np.where(flipped, flip_change, swap_change), after
