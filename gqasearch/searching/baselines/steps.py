"""A search under way whose number of generations is known: what baselines share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from gqasearch.group_errors import GroupErrors
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.problem import Generation, Problem
from gqasearch.searching.record import Record


class Steps(ABC):
    """A record, a generator, and variables of its own; ``generations`` of them, one after the other.

    ``index``: of the last generation made, -1 before the first.
    """

    def __init__(self, method: SearchMethod, problem: Problem, rng: np.random.Generator, generations: int) -> None:
        self.name, self.problem, self.rng = method.name, problem, rng
        self.record = Record(problem)
        self.total = generations
        self.index = -1

    @property
    def errors(self) -> GroupErrors:
        """The error of the only layer, for methods that take sums over groups."""
        if self.problem.layer_errors is None or self.problem.num_layers != 1:
            raise ValueError(f"{self.name} searches one layer of a sum over groups; start it by run_search")
        return self.problem.layer_errors[0]

    def start(self) -> None:  # noqa: B027 - some need nothing
        """Before generation 0."""

    @abstractmethod
    def advance(self) -> None:
        """One generation; at least one candidate is known after it."""

    def generations(self) -> Iterator[Generation]:
        """As :meth:`SearchMethod.search` promises."""
        self.start()
        while self.index + 1 < self.total:
            self.advance()
            self.index += 1
            best = self.record.best.candidate
            yield Generation(self.index, self.record.evaluations, best, (best,))
