"""Column generation for pairwise fitness: partitions proven best, or with the gap that is left.

Set partitioning for minimum-sum-of-squares clustering: du Merle, Hansen, Jaumard, Mladenovic 2000,
https://doi.org/10.1137/S1064827597328327; Aloise, Hansen, Liberti 2012, https://doi.org/10.1007/s10107-010-0349-7.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from gqasearch.searching.exact.branch import Branch
from gqasearch.searching.exact.certificate import Certificate
from gqasearch.searching.exact.multi_start import descend, random_labels
from gqasearch.searching.exact.pairwise_problem import Columns, Groups, PairwiseProblem, groups_of
from gqasearch.searching.exact.size_patterns import SizePatterns
from gqasearch.searching.problem import FloatArray

# Value of the start in the units that the solvers work in: HiGHS's absolute tolerance of 1e-10 is then 1e-13.
SCALE = 1e3
# Groups that one exact pricing may return: when there are more, splitting the size patterns is cheaper.
POOL_LIMIT = 60_000
# The same where the patterns cannot be split further.
LAST_POOL_LIMIT = 400_000
# Random starts of the first descent.
STARTS = 64


def solve_pairwise(
    distances: FloatArray,
    num_groups: int,
    smallest: int = 1,
    largest: int | None = None,
    *,
    start: Groups | None = None,
    time_limit: float = 60.0,
    rng: np.random.Generator,
) -> Certificate:
    """Partition H heads into ``num_groups`` groups at the least sum of c(S) = (1/|S|) sum_{i<j in S} D_ij.

    ``distances``: D, (H, H), symmetric, not negative, zero diagonal; need not be Euclidean. Group sizes are
    ``smallest`` to ``largest`` (None: H); equal: EC. ``start``: a partition to begin with. After ``time_limit``
    seconds the best partition so far comes back with a valid bound. The same ``rng`` state gives the same answer
    when the limit does not strike. Raises ``UserError`` for bad distances, bounds or start.
    """
    begun = time.monotonic()
    problem = PairwiseProblem.from_distances(distances, num_groups, smallest, largest)
    deadline = begun + time_limit
    groups, upper = _first_partition(problem, start, rng, deadline)
    lower = 0.0
    if upper > 0 and 1 < num_groups < problem.num_heads:
        factor = SCALE / upper
        scaled = replace(problem, excess=problem.excess * factor)
        best, lower = _branch(scaled, problem.columns(groups), deadline, rng)
        groups, lower = groups_of(best), lower / factor
        upper = problem.value(groups)
    elif num_groups in (1, problem.num_heads):
        lower = upper
    value = upper + problem.offset
    bound = value if lower >= upper else lower + problem.offset
    return Certificate(groups, value, min(bound, value), time.monotonic() - begun)


def _first_partition(
    problem: PairwiseProblem, start: Groups | None, rng: np.random.Generator, deadline: float
) -> tuple[Groups, float]:
    """The best local optimum of a few descents, or the start when it is better."""
    starts = random_labels(problem, STARTS if time.monotonic() < deadline else 1, rng)
    # One descent is always finished.
    optima = np.concatenate([descend(problem, starts[:1]), descend(problem, starts[1:], deadline)])
    values = problem.costs(optima.reshape(-1, problem.num_heads)).reshape(len(optima), -1).sum(1)
    groups = groups_of(optima[int(values.argmin())])
    if start is not None:
        given = problem.check_partition(start)
        groups = min(given, groups, key=problem.value)
    return groups, problem.value(groups)


def _branch(
    problem: PairwiseProblem, start: Columns, deadline: float, rng: np.random.Generator
) -> tuple[Columns, float]:
    """The best partition, (G, H), and a bound; by parts of the size patterns where all at once are too much."""
    patterns = SizePatterns(problem.num_heads, problem.num_groups, problem.sizes)
    branch = Branch(problem, patterns, start, deadline, rng)
    if not branch.is_done:
        branch.diversify()
    branch.solve(POOL_LIMIT)
    best, upper, done, queue = branch.best, branch.upper, list[Branch](), [branch]
    while queue:
        branch = min(queue, key=lambda other: other.lower)
        queue.remove(branch)
        if not branch.unlisted or branch.lower >= upper or time.monotonic() >= deadline:
            done.append(branch)
            continue
        for child in branch.split(best):
            # Once sizes cannot be split further, nothing is left but a larger pool.
            child.solve(LAST_POOL_LIMIT if child is branch else POOL_LIMIT)
            if child.upper < upper:
                best, upper = child.best, child.upper
            (done if child is branch else queue).append(child)
    return best, min([upper, *(branch.lower for branch in done)])
