"""DEAP's stock operators on label genomes: evolution that does not know what a grouping is; a baseline."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from deap import algorithms, base, tools  # type: ignore[import-untyped]

from gqasearch.errors import UserError
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.baselines.counted_run import CountedRun
from gqasearch.searching.baselines.label_genomes import repair_labels
from gqasearch.searching.problem import Generation, Problem
from gqasearch.searching.record import MinimisingFitness


@dataclass(frozen=True)
class DeapStock(SearchMethod):
    """DEAP's ``eaSimple`` on lists of labels: two-point crossover, uniform integers, tournaments of three.

    A genome is the labels of all layers, one after the other. A child comes from a crossover with chance
    ``crossover_rate`` (QCQA's) and is then mutated with chance ``mutation_rate``: every label is drawn anew with
    chance 1 / length. Genomes that break the budget are repaired for evaluation only: their fitness is that of the
    repaired grouping, and they stay as they are (no Lamarckian evolution).
    """

    name: ClassVar[str] = "deap-stock"
    reference: ClassVar[str] = "https://www.jmlr.org/papers/v13/fortin12a.html"
    summary: ClassVar[str] = "DEAP's stock operators on label genomes; a baseline"

    population: int = 100
    generations: int = 100
    crossover_rate: float = 0.9
    mutation_rate: float = 1.0

    def __post_init__(self) -> None:
        if self.population < 2 or self.generations < 0:
            raise UserError(
                "deap-stock: population must be at least 2 and generations at least 0, "
                f"got {self.population} and {self.generations}"
            )
        if not (0 <= self.crossover_rate <= 1 and 0 <= self.mutation_rate <= 1):
            raise UserError(
                "deap-stock: crossover_rate and mutation_rate are chances, 0 to 1, "
                f"got {self.crossover_rate} and {self.mutation_rate}"
            )

    def search(self, problem: Problem, rng: np.random.Generator) -> Iterator[Generation]:
        return _DeapStock(self, problem, rng).generations()

    def most_generations(self, problem: Problem) -> int:
        """Generation 0 and those that follow."""
        return self.generations + 1


class Fitness(MinimisingFitness):
    """One objective; DEAP copies fitnesses by constructing them without values."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = (-1.0,)


class Genome(list[int]):
    """Labels of all layers, one after the other."""

    def __init__(self, labels: list[int]) -> None:
        super().__init__(labels)
        self.fitness = Fitness()


class GlobalRandom:
    """A state of Python's ``random``, from which DEAP draws; ``random`` is as before outside of ``drawing``."""

    def __init__(self, seed: int) -> None:
        self.state: tuple[Any, ...] = random.Random(seed).getstate()  # noqa: S311 - not for security

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """``random`` goes on from this state."""
        outside = random.getstate()
        random.setstate(self.state)
        try:
            yield
        finally:
            self.state = random.getstate()
            random.setstate(outside)


class _DeapStock(CountedRun):
    def __init__(self, method: DeapStock, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(method, problem, rng, method.most_generations(problem))
        self.method = method
        self.population: list[Genome] = []
        self.random = GlobalRandom(0)
        self.toolbox = _make_toolbox(problem)

    def prepare(self) -> None:
        self.random = GlobalRandom(int(self.rng.integers(2**63)))

    def advance(self) -> None:
        method = self.method
        if not self.population:
            counts = np.repeat(self.problem.budget.counts, self.problem.num_heads)
            labels = self.rng.integers(counts, size=(method.population, len(counts)))
            self.population = [Genome(row) for row in labels.tolist()]
        else:
            with self.random.drawing():
                parents = self.toolbox.select(self.population, len(self.population))
                self.population = algorithms.varAnd(parents, self.toolbox, method.crossover_rate, method.mutation_rate)
        self._evaluate([genome for genome in self.population if not genome.fitness.valid])

    def _evaluate(self, genomes: list[Genome]) -> None:
        rows = np.array(genomes, dtype=np.int64).reshape(len(genomes), self.problem.num_layers, self.problem.num_heads)
        groupings = [repair_labels(labels, self.problem.budget, self.rng) for labels in rows.tolist()]
        for genome, individual in zip(genomes, self.record.evaluate(groupings), strict=True):
            genome.fitness.values = individual.candidate.values


def _make_toolbox(problem: Problem) -> Any:
    last = np.repeat(problem.budget.counts, problem.num_heads) - 1
    toolbox = base.Toolbox()
    toolbox.register("mate", tools.cxTwoPoint)
    toolbox.register("mutate", tools.mutUniformInt, low=0, up=last.tolist(), indpb=1 / len(last))
    toolbox.register("select", tools.selTournament, tournsize=3)
    return toolbox
