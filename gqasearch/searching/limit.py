"""A general stop: what a search may cost before it begins no further generation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gqasearch.searching._base import SearchMethod
from gqasearch.searching.problem import Generation, Problem


@dataclass(frozen=True)
class Limit:
    """No generation begins once ``evaluations`` were made or ``seconds`` have passed; None for no limit.

    The generation under way is finished, so a search may cost somewhat more. One that goes by layer, or by layer and
    number of groups, has an equal share for each of them. With seconds a result depends on the machine.
    """

    evaluations: int | None = None
    seconds: float | None = None

    def share(self, parts: int) -> Limit:
        """An equal part of it, at least one evaluation."""
        evaluations = None if self.evaluations is None else max(1, self.evaluations // parts)
        return Limit(evaluations, None if self.seconds is None else self.seconds / parts)

    def search(self, method: SearchMethod, problem: Problem, rng: np.random.Generator) -> Iterator[Generation]:
        """As ``method.search``, ended here."""
        started = problem.clock.seconds
        for generation in method.search(problem, rng):
            problem.clock.tick()
            yield generation
            if self._is_reached(generation.evaluations, problem.clock.seconds - started):
                return

    def _is_reached(self, evaluations: int, seconds: float) -> bool:
        enough = self.evaluations is not None and evaluations >= self.evaluations
        return enough or (self.seconds is not None and seconds >= self.seconds)


NO_LIMIT = Limit()
