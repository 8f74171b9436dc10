"""Sort by norm: heads of similar size share; a baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.pairwise import FloatArray
from gqasearch.searching._base import HeadFact, SearchMethod
from gqasearch.searching.baselines.counted_run import CountedRun
from gqasearch.searching.problem import Generation, Problem


@dataclass(frozen=True)
class NormSort(SearchMethod):
    """Heads in the order of their norms, consecutive ones share; sizes differ by at most one. One candidate."""

    name: ClassVar[str] = "norm-sort"
    reference: ClassVar[str] = "https://arxiv.org/abs/2408.08454"
    summary: ClassVar[str] = "heads sorted by norm, consecutive ones share; a baseline"
    by_layer: ClassVar[bool] = False
    needs: ClassVar[frozenset[HeadFact]] = frozenset({"norms"})

    def search(self, problem: Problem, rng: np.random.Generator) -> Iterator[Generation]:
        return _NormSort(self, problem, rng, 1).generations()

    def most_generations(self, problem: Problem) -> int:
        return 1


class _NormSort(CountedRun):
    def advance(self) -> None:
        norms = self.problem.norms
        if norms is None:
            raise ValueError("norm-sort needs the norms of the heads; start it by run_search")
        layers = (by_norm(row, count) for row, count in zip(norms, self.problem.budget.counts, strict=True))
        self.record.evaluate([Grouping(tuple(layers))])


def by_norm(norms: FloatArray, count: int) -> LayerGrouping:
    """The partition of one layer; ``norms``: (H,). Of equal norms the earlier head comes first."""
    order = np.argsort(norms, kind="stable")
    return LayerGrouping.from_groups(order[list(group)] for group in LayerGrouping.neighbours(len(norms), count).groups)
