"""The record of a search: every candidate evaluated, once, in order, and the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import le
from typing import Any

import numpy as np
from deap import base  # type: ignore[import-untyped]

from gqasearch.grouping import Grouping
from gqasearch.searching.problem import Candidate, Problem
from gqasearch.searching.state import pack, unpack


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


@dataclass(frozen=True)
class Snapshot:
    """Where a record stood: its first ``length`` candidates, the evaluations made, the best and the front."""

    length: int
    evaluations: int
    best: Individual
    front: tuple[Individual, ...]


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
        self._keys: list[bytes] = []
        self._values: list[tuple[float, ...]] = []
        self._front: tuple[Individual, ...] = ()
        self._best: Individual | None = None

    def __len__(self) -> int:
        return len(self._keys)

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
            self._keys.extend(new)
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

    def individual(self, index: int) -> Individual:
        """The individual at this place of the record."""
        labels = np.frombuffer(self._keys[index], dtype="<u2").reshape(self.problem.num_layers, -1).tolist()
        return Individual(index, Candidate(Grouping.from_labels(labels), self._values[index]))

    def snapshot(self) -> Snapshot:
        """Where the record stands; costs nothing, as the record only grows."""
        return Snapshot(len(self), self.evaluations, self.best, self.front)

    def save(self, at: Snapshot) -> dict[str, Any]:
        """The record as it stood, JSON-able."""
        values = np.array(self._values[: at.length], dtype="<f8")
        return {
            "length": at.length,
            "evaluations": at.evaluations,
            "genomes": pack(b"".join(self._keys[: at.length])),
            "values": pack(values.tobytes()),
            "best": at.best.index,
            "front": [individual.index for individual in at.front],
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Take up a saved record, in place of this one."""
        genomes, length = unpack(saved["genomes"]), saved["length"]
        self.evaluations = saved["evaluations"]
        width = len(genomes) // length
        self._keys = [genomes[start : start + width] for start in range(0, len(genomes), width)]
        self._index = {key: index for index, key in enumerate(self._keys)}
        values = np.frombuffer(unpack(saved["values"]), dtype="<f8").reshape(length, -1).tolist()
        self._values = [tuple(row) for row in values]
        self._best = self.individual(saved["best"])
        self._front = tuple(self.individual(index) for index in saved["front"])

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
