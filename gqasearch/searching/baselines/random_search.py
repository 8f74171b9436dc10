"""The random baseline: the best of a number of random groupings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gqasearch.errors import UserError
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.problem import Generation, Problem
from gqasearch.searching.record import Record
from gqasearch.searching.starts import random_grouping


@dataclass(frozen=True)
class RandomSearch(SearchMethod):
    """Draws ``samples`` partitions, ``batch`` at a time, and keeps the best."""

    name: ClassVar[str] = "random"
    reference: ClassVar[str] = "https://www.jmlr.org/papers/v13/bergstra12a.html"
    summary: ClassVar[str] = "the best of random partitions; a baseline"

    samples: int = 100
    batch: int = 20

    def __post_init__(self) -> None:
        if self.samples < 1 or self.batch < 1:
            raise UserError(f"random: samples and batch must be at least 1, got {self.samples} and {self.batch}")

    def search(self, problem: Problem, rng: np.random.Generator) -> Iterator[Generation]:
        record = Record(problem)
        for index, start in enumerate(range(0, self.samples, self.batch)):
            count = min(self.batch, self.samples - start)
            record.evaluate([random_grouping(problem, rng) for _ in range(count)])
            best = record.best.candidate
            yield Generation(index, record.evaluations, best, (best,))

    def most_generations(self, problem: Problem) -> int:
        return -(-self.samples // self.batch)
