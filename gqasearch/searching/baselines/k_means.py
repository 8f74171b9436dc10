"""k-means of heads with bounds on group sizes; a baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.pairwise import FloatArray, IntArray, pairwise_errors
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.baselines.assignment import assign, centroid_distances
from gqasearch.searching.baselines.pair_distances import DistanceRun
from gqasearch.searching.problem import Generation, Problem

# Restarts of one generation.
BATCH = 50


@dataclass(frozen=True)
class KMeans(SearchMethod):
    """Lloyd's algorithm from k-means++ seeds, the best of ``restarts``; at most ``iterations`` each.

    Runs on squared distances between heads, which say how far every head is from every centroid. The
    assignment step keeps group sizes within bounds. Among nearly equidistant heads it often stops at once: the
    centroid of a small group is nearest to the heads that it is the mean of.
    """

    name: ClassVar[str] = "k-means"
    reference: ClassVar[str] = "https://dl.acm.org/doi/10.5555/1283383.1283494"
    summary: ClassVar[str] = "Lloyd's algorithm with bounded group sizes, k-means++ seeds; a baseline"
    whole_model: ClassVar[bool] = False

    restarts: int = 500
    iterations: int = 50

    def __post_init__(self) -> None:
        if self.restarts < 1 or self.iterations < 1:
            raise UserError(
                f"k-means: restarts and iterations must be at least 1, got {self.restarts} and {self.iterations}"
            )

    def search(self, problem: Problem, rng: np.random.Generator) -> Iterator[Generation]:
        return _KMeans(self, problem, rng).generations()

    def most_generations(self, problem: Problem) -> int:
        return -(-self.restarts // BATCH)


class _KMeans(DistanceRun):
    def __init__(self, method: KMeans, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(method, problem, rng, method.most_generations(problem))
        self.method = method

    def advance(self) -> None:
        (count,), ends = self.problem.budget.counts, []
        for _ in range(min(BATCH, self.method.restarts - BATCH * (self.index + 1))):
            seeds = plus_plus_seeds(self.distances, count, self.rng)
            labels, evaluations = lloyd(self.distances, seeds, self.problem.budget, self.method.iterations)
            if self.exact:
                self.record.charge(evaluations - 1)  # the record counts the end
            ends.append(Grouping.from_labels([labels.tolist()]))
        self.record.evaluate(ends)


def plus_plus_seeds(distances: FloatArray, count: int, rng: np.random.Generator) -> IntArray:
    """Heads to start groups from, (G,): each drawn in proportion to its squared distance to the nearest one before.

    Arthur and Vassilvitskii 2007, section 2.2.
    """
    heads = len(distances)
    seeds = [int(rng.integers(heads))]
    while len(seeds) < count:
        weights = np.maximum(distances[:, seeds].min(axis=1), 0)
        weights[seeds] = 0
        if not weights.any():  # the others coincide with seeds
            weights = np.ones(heads)
            weights[seeds] = 0
        seeds.append(int(rng.choice(heads, p=weights / weights.sum())))
    return np.array(seeds)


def lloyd(distances: FloatArray, seeds: IntArray, budget: Budget, iterations: int) -> tuple[IntArray, int]:
    """Labels, (H,), that no further step improves (or after ``iterations``), and the partitions it took the error of.

    Distances that are no squared distances of points (of set functions) may send the algorithm in circles, so a
    step must lower the error.
    """
    labels = assign(distances[:, seeds], budget)
    error, evaluations = _error(distances, labels), 1
    for _ in range(iterations):
        new = assign(centroid_distances(distances, labels, len(seeds)), budget)
        if np.array_equal(new, labels):
            break
        new_error, evaluations = _error(distances, new), evaluations + 1
        if new_error >= error:
            break
        labels, error = new, new_error
    return labels, evaluations


def _error(distances: FloatArray, labels: IntArray) -> float:
    return float(pairwise_errors(distances, labels[None])[0])
