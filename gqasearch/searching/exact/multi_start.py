"""Multi-start steepest descent over partitions by moves and swaps, all starts at once."""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import NDArray

from gqasearch.budget import Budget
from gqasearch.searching.exact.pairwise_problem import Columns, PairwiseProblem
from gqasearch.searching.walk import LEAST_GAIN, Walk

Labels = NDArray[np.intp]


def descend(problem: PairwiseProblem, starts: Labels, deadline: float = math.inf) -> Columns:
    """Local optima reached from P labellings with sizes within bounds, (P, H), as columns (P, G, H).

    At ``deadline`` (``time.monotonic``): the partitions on the way there.
    """
    budget = Budget((problem.num_groups,), problem.num_heads, False, problem.sizes[0], problem.sizes[-1])
    walk, active = Walk(problem.excess, starts, budget), np.arange(len(starts))
    least = LEAST_GAIN * float(problem.excess.max(initial=0.0))
    while len(active) and time.monotonic() < deadline:
        active, _ = walk.step(active, least)
    return np.asarray(walk.labels[:, None, :] == np.arange(problem.num_groups)[None, :, None], dtype=np.float64)


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
