"""A search under way whose number of generations is known: what baselines share."""

from __future__ import annotations

import numpy as np

from gqasearch.group_errors import GroupErrors
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.problem import Problem
from gqasearch.searching.search_run import SearchRun


class CountedRun(SearchRun):
    """``total`` generations, all made by ``advance``."""

    def __init__(self, method: SearchMethod, problem: Problem, rng: np.random.Generator, generations: int) -> None:
        super().__init__(problem, rng)
        self.name, self.total = method.name, generations

    @property
    def is_done(self) -> bool:
        return self.index + 1 >= self.total

    @property
    def errors(self) -> GroupErrors:
        """The error of the only layer, for methods that take sums over groups."""
        if self.problem.layer_errors is None or self.problem.num_layers != 1:
            raise ValueError(f"{self.name} searches one layer of a sum over groups; start it by run_search")
        return self.problem.layer_errors[0]

    def start(self) -> None:
        self.prepare()
        self.index = -1
        self.advance()
        self.index = 0

    def prepare(self) -> None:
        """Before generation 0."""
