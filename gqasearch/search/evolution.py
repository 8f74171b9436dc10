"""Evolution of groupings, the default method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from deap import base, tools  # type: ignore[import-untyped]

from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.search._base import SearchMethod
from gqasearch.search.descent import Descent
from gqasearch.search.operators import exchange_layers
from gqasearch.search.problem import Generation, Problem
from gqasearch.search.record import Individual, Record
from gqasearch.search.selection import crowded_tournament, tournament
from gqasearch.search.starts import starting_groupings
from gqasearch.search.state import require_method, restore_rng, save_rng
from gqasearch.search.variation import mutate, usable_weights

# A child that was evaluated before is mutated again, at most so often.
ATTEMPTS = 10

# The smallest value of every parameter that has one.
LEAST: dict[str, float] = {
    "population": 2,
    "offspring": 1,
    "generations": 0,
    "patience": 1,
    "tournament_size": 1,
    "crossover_rate": 0,
    "mutation_rate": 0,
    "swap": 0,
    "move": 0,
    "merge_split": 0,
    "shift": 0,
    "local_individuals": 0,
    "local_steps": 0,
    "max_evaluations": 1,
}


@dataclass(frozen=True)
class Evolution(SearchMethod):
    """(mu + lambda) evolution of partitions; NSGA-II survival for several objectives.

    ``population`` survivors have ``offspring`` children a generation. A child comes from a crossover with
    chance ``crossover_rate`` and is then mutated with chance ``mutation_rate``; the others are mutants of
    one parent. ``swap``, ``move``, ``merge_split`` and ``shift`` say how often each mutation is drawn,
    relative to the others; ``shift`` only counts where the numbers of groups may change. The
    ``local_individuals`` best children of a generation then go to a better neighbour at most
    ``local_steps`` times each. That takes hundreds of evaluations: set either to 0 for an objective that
    runs the model. Ends after ``generations``, after ``patience`` of them in a row without a better
    candidate, with ``max_evaluations``, or when the operators find nothing that was not evaluated yet.
    """

    name: ClassVar[str] = "evolution"
    reference: ClassVar[str] = "https://doi.org/10.1007/BF00226291"
    summary: ClassVar[str] = "memetic evolution with operators on partitions; NSGA-II for several objectives"
    multi_objective: ClassVar[bool] = True

    population: int = 30
    offspring: int = 30
    generations: int = 200
    patience: int = 8
    tournament_size: int = 2
    crossover_rate: float = 0.7
    mutation_rate: float = 0.3
    swap: float = 1.0
    move: float = 1.0
    merge_split: float = 0.5
    shift: float = 1.0
    local_individuals: int = 8
    local_steps: int = 100
    max_evaluations: int | None = None

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                raise UserError(f"evolution: {name} must be a number of at least {least}, got {value}")
        for name in ("crossover_rate", "mutation_rate"):
            if getattr(self, name) > 1:
                raise UserError(f"evolution: {name} is a chance, at most 1, got {getattr(self, name)}")
        if self.swap + self.merge_split == 0:
            raise UserError("evolution: swap and merge_split cannot both be 0; move can do nothing at equal sizes")

    def search(
        self, problem: Problem, rng: np.random.Generator, state: dict[str, Any] | None = None
    ) -> Iterator[Generation]:
        """See :meth:`SearchMethod.search`; the state of a finished search gives its last generation again."""
        run = _Run(self, problem, rng)
        if state is None:
            run.start()
        else:
            run.load(state)
        if state is None or run.is_done:
            yield run.generation()
        while not run.is_done:
            run.advance()
            yield run.generation()

    def most_generations(self) -> int:
        """Generation 0 and those that follow."""
        return self.generations + 1


class _Run:
    """One search under way: the population, the record, and DEAP's toolbox."""

    def __init__(self, method: Evolution, problem: Problem, rng: np.random.Generator) -> None:
        self.method, self.problem, self.rng = method, problem, rng
        self.record = Record(problem, method.max_evaluations)
        self.index = self.idle = 0
        self.exhausted = False
        self.population: list[Individual] = []
        self.descent = Descent(self.record, rng)
        self.toolbox = self._make_toolbox()

    def _make_toolbox(self) -> Any:
        method, problem, rng = self.method, self.problem, self.rng
        weights = {name: getattr(method, name) for name in ("swap", "move", "merge_split", "shift")}
        toolbox = base.Toolbox()
        toolbox.register("evaluate", self.record.evaluate)
        toolbox.register("mate", exchange_layers, budget=problem.budget, free_counts=problem.free_counts, rng=rng)
        toolbox.register("mutate", mutate, problem=problem, weights=usable_weights(weights, problem), rng=rng)
        toolbox.register("descend", self.descent.descend, steps=method.local_steps)
        if len(problem.objectives) > 1:
            toolbox.register("pick", crowded_tournament, size=method.tournament_size, rng=rng)
            # DEAP's standard non-dominated sort is 20 to 60 times slower.
            toolbox.register("select", tools.selNSGA2, nd="log")
        else:
            toolbox.register("pick", tournament, size=method.tournament_size, rng=rng)
            toolbox.register("select", tools.selBest)
        return toolbox

    @property
    def is_done(self) -> bool:
        method = self.method
        """True when a stopping rule holds."""
        return self.exhausted or self.record.is_full or self.index >= method.generations or self.idle >= method.patience

    def start(self) -> None:
        """Generation 0."""
        self._survive(self.toolbox.evaluate(starting_groupings(self.problem, self.method.population, self.rng)))

    def advance(self) -> None:
        """One generation."""
        evaluations, front = len(self.record), self.record.front
        # Sets the crowding distances that ``pick`` compares: of the survivors alone, so that a search
        # that goes on from a state has the same ones.
        self.toolbox.select(self.population, len(self.population))
        children = self.toolbox.evaluate(self._children())
        self._survive([*self.population, *self._refine(children)])
        self.index += 1
        self.idle = 0 if self.record.front is not front else self.idle + 1
        self.exhausted = len(self.record) == evaluations

    def _children(self) -> list[Grouping]:
        """Groupings that were never evaluated, all different."""
        children: dict[Grouping, None] = {}
        for _ in range(self.method.offspring):
            child = self._child()
            for _ in range(ATTEMPTS):
                if child not in children and child not in self.record:
                    children[child] = None
                    break
                child = self.toolbox.mutate(child)
        return list(children)

    def _child(self) -> Grouping:
        mother, father = self.toolbox.pick(self.population), self.toolbox.pick(self.population)
        child: Grouping = mother.grouping
        crossed = self.rng.random() < self.method.crossover_rate
        if crossed:
            child = self.toolbox.mate(mother.grouping, father.grouping)
        if not crossed or self.rng.random() < self.method.mutation_rate:
            child = self.toolbox.mutate(child)
        return child

    def _refine(self, children: list[Individual]) -> list[Individual]:
        """The children, the best of them replaced by where their descent ends."""
        if self.method.local_steps == 0 or not children:
            return children
        best = self.toolbox.select(children, min(len(children), self.method.local_individuals))
        chosen = {individual.index for individual in best}
        return [self.toolbox.descend(child) if child.index in chosen else child for child in children]

    def _survive(self, pool: list[Individual]) -> None:
        """Keep the best of the pool, each once: two descents may have met."""
        distinct = list({individual.index: individual for individual in pool}.values())
        self.population = self.toolbox.select(distinct, min(self.method.population, len(distinct)))

    def generation(self) -> Generation:
        """This moment, as history and resume see it; the state is built only when it is asked for."""
        snapshot, pairs = self.record.snapshot(), len(self.descent)
        frozen = {
            "method": self.method.name,
            "index": self.index,
            "idle": self.idle,
            "exhausted": self.exhausted,
            "rng": save_rng(self.rng),
            "population": [individual.index for individual in self.population],
        }

        def state() -> dict[str, Any]:
            return {**frozen, "record": self.record.save(snapshot), "settled": self.descent.save(pairs)}

        front = tuple(individual.candidate for individual in snapshot.front)
        return Generation(self.index, snapshot.length, snapshot.best.candidate, front, state)

    def load(self, saved: dict[str, Any]) -> None:
        """Go back to where a saved generation stood."""
        require_method(saved, self.method.name)
        self.index, self.idle, self.exhausted = saved["index"], saved["idle"], saved["exhausted"]
        self.record.load(saved["record"])
        self.descent.load(saved["settled"])
        self.population = [self.record.individual(index) for index in saved["population"]]
        restore_rng(self.rng, saved["rng"])
