"""Agglomerative clustering of heads: scipy's, cut at the number of groups; a baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy.cluster.hierarchy import cut_tree
from scipy.cluster.hierarchy import linkage as link

from gqasearch.grouping import Grouping
from gqasearch.pairwise import FloatArray, IntArray
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.baselines.assignment import assign, centroid_distances, within_bounds
from gqasearch.searching.baselines.pair_distances import DistanceRun
from gqasearch.searching.problem import Generation, Problem


@dataclass(frozen=True)
class Agglomerative(SearchMethod):
    """Joins the two nearest clusters until the groups are as few as asked; one candidate.

    ``linkage``: which clusters are nearest. Both kinds work on distances, the roots of the squared distances
    between heads. Where a size is out of bounds, heads go to the clusters' centroids as cheaply as the bounds let them.
    """

    name: ClassVar[str] = "agglomerative"
    reference: ClassVar[str] = "https://doi.org/10.1080/01621459.1963.10500845"
    summary: ClassVar[str] = "hierarchical clustering, Ward or average linkage (scipy); a baseline"
    whole_model: ClassVar[bool] = False

    linkage: Literal["ward", "average"] = "ward"

    def search(self, problem: Problem, rng: np.random.Generator) -> Iterator[Generation]:
        return _Agglomerative(self, problem, rng).generations()

    def most_generations(self, problem: Problem) -> int:
        return 1


class _Agglomerative(DistanceRun):
    def __init__(self, method: Agglomerative, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(method, problem, rng, method.most_generations(problem))
        self.linkage = method.linkage

    def advance(self) -> None:
        budget = self.problem.budget
        (count,) = budget.counts
        labels = cluster(self.distances, count, self.linkage)
        if not within_bounds(labels, count, budget):
            labels = assign(centroid_distances(self.distances, labels, count), budget)
        self.record.evaluate([Grouping.from_labels([labels.tolist()])])


def cluster(distances: FloatArray, count: int, linkage: Literal["ward", "average"]) -> IntArray:
    """Labels, (H,), of ``count`` clusters of any size; ``distances``: (H, H), squared."""
    # scipy takes the upper triangle, row by row. Rounding may leave a squared distance just below 0.
    condensed = np.sqrt(np.maximum(distances[np.triu_indices(len(distances), 1)], 0))
    tree = link(condensed, method=linkage)
    return np.asarray(cut_tree(tree, n_clusters=[count])[:, 0], dtype=np.int64)
