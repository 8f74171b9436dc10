"""The record of a search: every candidate evaluated, once, in order, and the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import le

import numpy as np
from deap import base  # type: ignore[import-untyped]

from gqasearch.grouping import Grouping
from gqasearch.searching.problem import Candidate, Problem


class MinimisingFitness(base.Fitness):  # type: ignore[misc]  # deap ships no types
    """DEAP's fitness with every objective minimised; their number is that of the values."""

    def __init__(self, values: Sequence[float] = ()) -> None:
        self.weights = (-1.0,) * len(values)
        super().__init__(values)


class Individual:
    """A candidate as DEAP's selection sees it; ``index``: its place in the record."""

    def __init__(self, index: int, candidate: Candidate) -> None:
        self.index = index
        self.candidate = candidate
        self.fitness = MinimisingFitness(candidate.values)

    @property
    def grouping(self) -> Grouping:
        return self.candidate.grouping

    def dominates(self, other: Individual) -> bool:
        """No objective worse and one better; for one objective, plainly better."""
        return bool(self.fitness.dominates(other.fitness))


class Record:
    """Evaluates groupings for a search and never the same one twice.

    ``limit``: most evaluations ever made; None for no limit. ``evaluations``: those made, neighbours that a
    descent knows only by what they would change included.
    """

    def __init__(self, problem: Problem, limit: int | None = None) -> None:
        self.problem = problem
        self.limit = limit
        self.evaluations = 0
        self._index: dict[bytes, int] = {}
        self._values: list[tuple[float, ...]] = []
        self._front: tuple[Individual, ...] = ()
        self._best: Individual | None = None

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, grouping: Grouping) -> bool:
        return self.key(grouping) in self._index

    @property
    def is_full(self) -> bool:
        """True when the limit on evaluations is reached."""
        return self.limit is not None and self.evaluations >= self.limit

    def charge(self, evaluations: int) -> bool:
        """Count evaluations made outside of this record; False, and nothing counted, where the limit forbids them."""
        if self.limit is not None and self.evaluations + evaluations > self.limit:
            return False
        self.evaluations += evaluations
        return True

    @property
    def front(self) -> tuple[Individual, ...]:
        """Non-dominated individuals met, in the order met."""
        return self._front

    @property
    def best(self) -> Individual:
        """Lowest first objective met; among equals the lowest next one, then the first met."""
        if self._best is None:
            raise ValueError("nothing was evaluated yet")
        return self._best

    def key(self, grouping: Grouping) -> bytes:
        """Canonical genome: labels of all layers as two little-endian bytes each."""
        return np.array([layer.labels for layer in grouping], dtype="<u2").tobytes()

    def evaluate(self, groupings: Sequence[Grouping]) -> list[Individual]:
        """Individuals of these groupings, those beyond the limit left out. Known ones cost nothing."""
        keys = [self.key(grouping) for grouping in groupings]
        new = {key: grouping for key, grouping in zip(keys, groupings, strict=True) if key not in self._index}
        if self.limit is not None:
            new = dict(list(new.items())[: max(self.limit - self.evaluations, 0)])
        known = len(self)
        self.evaluations += len(new)
        if new:
            candidates = self.problem.evaluate(list(new.values()))
            self._index.update(zip(new, range(known, known + len(new)), strict=True))
            self._values.extend(candidate.values for candidate in candidates)
        individuals = [
            Individual(index, Candidate(grouping, self._values[index]))
            for key, grouping in zip(keys, groupings, strict=True)
            if (index := self._index.get(key)) is not None
        ]
        for individual in individuals:
            if individual.index >= known:
                self._archive(individual)
        return individuals

    def _archive(self, individual: Individual) -> None:
        """Update the best and the front."""
        values = individual.candidate.values
        if self._best is None or values < self._best.candidate.values:
            self._best = individual
        if not any(_covers(member.candidate.values, values) for member in self._front):
            kept = (m for m in self._front if not _covers(values, m.candidate.values))
            self._front = (*kept, individual)


def _covers(values: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """True when ``values`` dominate ``other`` or equal it."""
    return all(map(le, values, other))
