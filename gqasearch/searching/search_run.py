"""A search under way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from gqasearch.searching.problem import Generation, Problem
from gqasearch.searching.record import Record


class SearchRun(ABC):
    """A record, a generator, and what a method keeps between generations; ``index``: of the last one made."""

    def __init__(self, problem: Problem, rng: np.random.Generator, max_evaluations: int | None = None) -> None:
        self.problem, self.rng = problem, rng
        self.record = Record(problem, max_evaluations)
        self.index = 0

    @property
    @abstractmethod
    def is_done(self) -> bool:
        """True when a stopping rule holds."""

    @abstractmethod
    def start(self) -> None:
        """Generation 0; at least one candidate is known after it."""

    @abstractmethod
    def advance(self) -> None:
        """One generation more."""

    def generation(self) -> Generation:
        """This moment, as history sees it."""
        front = tuple(individual.candidate for individual in self.record.front)
        return Generation(self.index, self.record.evaluations, self.record.best.candidate, front)

    def generations(self) -> Iterator[Generation]:
        """Every generation from the start."""
        self.start()
        yield self.generation()
        while not self.is_done:
            self.advance()
            self.index += 1
            yield self.generation()
