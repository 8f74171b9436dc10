"""The random baseline: the best of a number of random groupings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gqasearch.errors import UserError
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.problem import Generation, Problem
from gqasearch.searching.record import Record
from gqasearch.searching.starts import random_grouping
from gqasearch.searching.state import require_method, restore_rng, save_rng


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

    def search(
        self, problem: Problem, rng: np.random.Generator, state: dict[str, Any] | None = None
    ) -> Iterator[Generation]:
        record, drawn = Record(problem), 0
        if state is not None:
            require_method(state, self.name)
            record.load(state["record"])
            restore_rng(rng, state["rng"])
            drawn = state["drawn"]
            if drawn >= self.samples:
                yield self._generation(record, drawn, rng)
        while drawn < self.samples:
            count = min(self.batch, self.samples - drawn)
            record.evaluate([random_grouping(problem, rng) for _ in range(count)])
            drawn += count
            yield self._generation(record, drawn, rng)

    def _generation(self, record: Record, drawn: int, rng: np.random.Generator) -> Generation:
        snapshot, saved = record.snapshot(), save_rng(rng)
        best = snapshot.best.candidate

        def state() -> dict[str, Any]:
            return {"method": self.name, "drawn": drawn, "rng": saved, "record": record.save(snapshot)}

        return Generation(-(-drawn // self.batch) - 1, snapshot.evaluations, best, (best,), state)

    def most_generations(self, problem: Problem) -> int:
        return -(-self.samples // self.batch)
