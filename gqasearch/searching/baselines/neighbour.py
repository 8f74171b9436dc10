"""The neighbour baseline: consecutive heads share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gqasearch.searching._base import SearchMethod
from gqasearch.searching.problem import Generation, Problem
from gqasearch.searching.starts import neighbour_grouping


@dataclass(frozen=True)
class Neighbour(SearchMethod):
    """The GQA paper's recipe (section 2.1): one candidate, no search."""

    name: ClassVar[str] = "neighbour"
    reference: ClassVar[str] = "https://arxiv.org/abs/2305.13245"
    summary: ClassVar[str] = "consecutive heads share (the GQA recipe); a baseline"
    by_layer: ClassVar[bool] = False

    def search(self, problem: Problem, rng: np.random.Generator) -> Iterator[Generation]:
        (best,) = problem.evaluate([neighbour_grouping(problem)])
        yield Generation(0, 1, best, (best,))

    def most_generations(self, problem: Problem) -> int:
        return 1
