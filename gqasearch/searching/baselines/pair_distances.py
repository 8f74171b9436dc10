"""Distances of heads, for methods that cluster points: given by pairwise errors, asked pair by pair of others."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from gqasearch.group_errors import GroupErrors, PairwiseErrors
from gqasearch.pairwise import FloatArray
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.baselines.counted_run import CountedRun
from gqasearch.searching.problem import Problem


def pair_distances(errors: GroupErrors) -> FloatArray:
    """Squared distances D, (H, H): those of pairwise errors, else D_ij = 2 error({i, j}).

    The factor makes 1/|S| sum_{i<j in S} D_ij the error of every group of two.
    """
    if isinstance(errors, PairwiseErrors):
        return errors.distances
    distances = np.zeros((errors.num_heads, errors.num_heads))
    for i, j in combinations(range(errors.num_heads), 2):
        distances[i, j] = distances[j, i] = 2 * errors.group_error((i, j))
    return distances


class DistanceRun(CountedRun):
    """A search on pair distances, of a one-layer problem whatever its errors.

    ``exact``: the distances say all of the error. Where they do not, they cost an evaluation for every pair of heads,
    and what is then computed from them costs none.
    """

    def __init__(self, method: SearchMethod, problem: Problem, rng: np.random.Generator, generations: int) -> None:
        super().__init__(method, problem, rng, generations)
        self.exact = isinstance(self.errors, PairwiseErrors)
        self.distances = pair_distances(self.errors)

    def prepare(self) -> None:
        if not self.exact:
            self.record.charge(self.problem.num_heads * (self.problem.num_heads - 1) // 2)
