"""The neighbour baseline: consecutive heads share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gqasearch.searching._base import SearchMethod
from gqasearch.searching.problem import Generation, Problem
from gqasearch.searching.starts import neighbour_grouping
from gqasearch.searching.state import load_candidate, require_method, save_candidate


@dataclass(frozen=True)
class Neighbour(SearchMethod):
    """The GQA paper's recipe (section 2.1): one candidate, no search."""

    name: ClassVar[str] = "neighbour"
    reference: ClassVar[str] = "https://arxiv.org/abs/2305.13245"
    summary: ClassVar[str] = "consecutive heads share (the GQA recipe); a baseline"
    by_layer: ClassVar[bool] = False

    def search(
        self, problem: Problem, rng: np.random.Generator, state: dict[str, Any] | None = None
    ) -> Iterator[Generation]:
        if state is None:
            best = problem.evaluate([neighbour_grouping(problem)])[0]
        else:
            require_method(state, self.name)
            best = load_candidate(state["best"])
        yield Generation(0, 1, best, (best,), lambda: {"method": self.name, "best": save_candidate(best)})

    def most_generations(self, problem: Problem) -> int:
        return 1
