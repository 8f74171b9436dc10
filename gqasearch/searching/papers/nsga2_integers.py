"""NSGA-II on rows of integers, two objectives: what QCQA runs on the heads of a layer, then on the layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from deap import tools  # type: ignore[import-untyped]

from gqasearch.pairwise import FloatArray, IntArray
from gqasearch.searching.record import MinimisingFitness

# Rounds of variation that may pass before a generation goes on with fewer new genomes than survivors.
ATTEMPTS = 10

Evaluate: TypeAlias = Callable[[IntArray], FloatArray]


class Genomes(ABC):
    """A space of genomes, ``genes`` integers each. Operators take and give rows, (N, genes)."""

    genes: int

    @abstractmethod
    def draw(self, count: int, rng: np.random.Generator) -> IntArray:
        """Random genomes, (count, genes)."""

    @abstractmethod
    def cross(self, mothers: IntArray, fathers: IntArray, rng: np.random.Generator) -> IntArray:
        """A child of every mother and father, (N, genes)."""

    @abstractmethod
    def mutate(self, genomes: IntArray, rate: float, rng: np.random.Generator) -> IntArray:
        """Genomes with every gene changed with chance ``rate``, (N, genes)."""


@dataclass(frozen=True)
class Rates:
    """Survivors of a generation, the chance of a crossover per child, the chance of a mutation per gene."""

    population: int
    crossover: float
    mutation: float


class _Member:
    """A row as DEAP's selection sees it."""

    def __init__(self, row: int, values: list[float]) -> None:
        self.row = row
        self.fitness = MinimisingFitness(values)


class NSGA2:
    """One population under way (Deb et al. 2002, https://doi.org/10.1109/4235.996017).

    Survival is DEAP's; tournaments and variation draw from ``rng``. A genome that the population or another
    child has is dropped, and another made for it. The arrays are replaced, never changed in place.
    """

    def __init__(self, space: Genomes, evaluate: Evaluate, rates: Rates, rng: np.random.Generator) -> None:
        self.space, self.evaluate, self.rates, self.rng = space, evaluate, rates, rng
        self.generation = 0
        self.genomes: IntArray = np.empty((0, space.genes), dtype=np.int64)
        self.values: FloatArray = np.empty((0, 2))
        self.crowding: FloatArray = np.empty(0)

    def start(self) -> None:
        """Generation 0: random genomes."""
        self._survive(self._new(lambda count: self.space.draw(count, self.rng)))

    def advance(self) -> None:
        """One generation: as many children as there are to survive, then survival among all."""
        self._survive(self._new(self._children))
        self.generation += 1

    def _new(self, make: Callable[[int], IntArray]) -> IntArray:
        """Genomes, all different and none of them in the population; fewer where the space runs out."""
        known = {row.tobytes() for row in self.genomes}
        rows: list[IntArray] = []
        for _ in range(ATTEMPTS):
            for row in make(self.rates.population - len(rows)):
                if (key := row.tobytes()) not in known:
                    known.add(key)
                    rows.append(row)
            if len(rows) == self.rates.population:
                break
        return np.array(rows, dtype=np.int64).reshape(-1, self.space.genes)

    def _children(self, count: int) -> IntArray:
        mothers, fathers = self.genomes[self._parents(count)], self.genomes[self._parents(count)]
        crossed = self.rng.random(count) < self.rates.crossover
        children = mothers.copy()
        children[crossed] = self.space.cross(mothers[crossed], fathers[crossed], self.rng)
        return self.space.mutate(children, self.rates.mutation, self.rng)

    def _parents(self, count: int) -> IntArray:
        """Rows that win binary tournaments, (count,): by dominance, then by crowding distance."""
        first, second = self.rng.integers(len(self.genomes), size=(2, count))
        a, b = self.values[first], self.values[second]
        loses = (b <= a).all(axis=1) & (b < a).any(axis=1)
        wins = (a <= b).all(axis=1) & (a < b).any(axis=1)
        loses |= ~wins & (self.crowding[second] > self.crowding[first])
        return np.asarray(np.where(loses, second, first))

    def _survive(self, born: IntArray) -> None:
        if not len(born):
            return
        genomes = np.concatenate([self.genomes, born])
        values = np.concatenate([self.values, self.evaluate(born)])
        pool = [_Member(row, pair) for row, pair in enumerate(values.tolist())]
        # DEAP's standard non-dominated sort is 20 to 60 times slower.
        chosen = tools.selNSGA2(pool, min(self.rates.population, len(pool)), nd="log")
        rows = [member.row for member in chosen]
        self.genomes, self.values = genomes[rows], values[rows]
        self.crowding = np.array([member.fitness.crowding_dist for member in chosen])
