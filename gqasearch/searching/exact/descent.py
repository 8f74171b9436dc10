"""Multi-start steepest descent over partitions by moves and swaps, all starts at once."""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import NDArray

from gqasearch.searching.exact.pairwise import Columns, PairwiseProblem
from gqasearch.searching.problem import FloatArray

# Gains below this share of the largest distance are rounding, and would let a descent circle.
LEAST_GAIN = 1e-12

Labels = NDArray[np.intp]


def descend(problem: PairwiseProblem, starts: Labels, deadline: float = math.inf) -> Columns:
    """Local optima reached from P labellings with sizes within bounds, (P, H), as columns (P, G, H).

    At ``deadline`` (``time.monotonic``): the partitions on the way there.
    """
    labels = starts.copy()
    active = np.arange(len(labels))
    least = LEAST_GAIN * float(problem.excess.max(initial=0.0))
    while len(active) and time.monotonic() < deadline:
        current = labels[active]
        gain, better = _best_neighbour(problem, current)
        improved = gain < -least
        active = active[improved]
        labels[active] = better[improved]
    return np.asarray(labels[:, None, :] == np.arange(problem.num_groups)[None, :, None], dtype=np.float64)


def random_labels(problem: PairwiseProblem, count: int, rng: np.random.Generator) -> Labels:
    """``count`` random labellings with sizes within bounds, (count, H): sizes grow from the least at random."""
    num_heads, num_groups = problem.num_heads, problem.num_groups
    sizes = np.full((count, num_groups), problem.sizes[0])
    rows = np.arange(count)
    for _ in range(num_heads - num_groups * problem.sizes[0]):
        draws = np.where(sizes < problem.sizes[-1], rng.random(sizes.shape), -1.0)
        sizes[rows, draws.argmax(1)] += 1
    sorted_labels = np.stack([np.repeat(np.arange(num_groups), row) for row in sizes])
    return rng.permuted(sorted_labels, axis=1)


def _best_neighbour(problem: PairwiseProblem, labels: Labels) -> tuple[FloatArray, Labels]:
    """The best move or swap of each labelling: change of cost, (P,), and the labelling after it, (P, H)."""
    count, num_heads = labels.shape
    rows = np.arange(count)
    member = (labels[:, :, None] == np.arange(problem.num_groups)).astype(np.float64)
    # to_group[p, i, g]: sum of E between head i and group g; inside[p, g]: sum over pairs of g.
    to_group = np.einsum("ij,pjg->pig", problem.excess, member, optimize=True)
    inside = np.einsum("pig,pig->pg", to_group, member) / 2
    sizes = member.sum(1)
    own = np.take_along_axis(to_group, labels[:, :, None], 2)[:, :, 0]
    moves = _move_changes(problem, labels, to_group, inside, sizes, own)
    move = moves.reshape(count, -1).argmin(1)
    move_change = moves.reshape(count, -1)[rows, move]
    swaps = _swap_changes(problem, labels, to_group, sizes, own)
    swap = swaps.reshape(count, -1).argmin(1)
    swap_change = swaps.reshape(count, -1)[rows, swap]
    after = labels.copy()
    moved = move_change <= swap_change
    head, group = np.divmod(move, problem.num_groups)
    after[rows[moved], head[moved]] = group[moved]
    one, two = np.divmod(swap, num_heads)
    swapped = rows[~moved]
    after[swapped, one[~moved]], after[swapped, two[~moved]] = (
        labels[swapped, two[~moved]],
        labels[swapped, one[~moved]],
    )
    return np.where(moved, move_change, swap_change), after


def _move_changes(
    problem: PairwiseProblem,
    labels: Labels,
    to_group: FloatArray,
    inside: FloatArray,
    sizes: FloatArray,
    own: FloatArray,
) -> FloatArray:
    """Change of cost when head i moves to group g, (P, H, G); ``inf`` where bounds forbid it."""
    cost = inside / sizes
    size, sum_inside = np.take_along_axis(sizes, labels, 1), np.take_along_axis(inside, labels, 1)
    left = (sum_inside - own) / np.maximum(size - 1, 1) - np.take_along_axis(cost, labels, 1)
    joined = (inside[:, None] + to_group) / (sizes[:, None] + 1) - cost[:, None]
    allowed = (size > problem.sizes[0])[:, :, None] & (sizes < problem.sizes[-1])[:, None]
    allowed &= labels[:, :, None] != np.arange(problem.num_groups)
    return np.where(allowed, left[:, :, None] + joined, np.inf)


def _swap_changes(
    problem: PairwiseProblem, labels: Labels, to_group: FloatArray, sizes: FloatArray, own: FloatArray
) -> FloatArray:
    """Change of cost when heads i and j change places, (P, H, H); ``inf`` inside a group."""
    rows = np.arange(len(labels))[:, None, None]
    # half[p, i, j]: what the group of j gains in pairs when i takes j's place, over its size.
    half = to_group[rows, np.arange(problem.num_heads)[None, :, None], labels[:, None, :]]
    half = (half - problem.excess - own[:, None, :]) / np.take_along_axis(sizes, labels, 1)[:, None, :]
    change = half + half.swapaxes(1, 2)
    return np.where(labels[:, :, None] == labels[:, None, :], np.inf, change)
