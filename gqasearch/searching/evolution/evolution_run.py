"""An evolution under way."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from deap import base, tools  # type: ignore[import-untyped]

from gqasearch.group_errors import PairwiseErrors, SetErrors
from gqasearch.grouping import Grouping
from gqasearch.searching.evolution.beside import merged_down
from gqasearch.searching.evolution.evolution_parameters import EvolutionParameters
from gqasearch.searching.evolution.group_descent import GroupDescent
from gqasearch.searching.evolution.neighbour_descent import NeighbourDescent
from gqasearch.searching.evolution.pairwise_descent import PairwiseDescent
from gqasearch.searching.evolution.screened_descent import ScreenedDescent
from gqasearch.searching.evolution.selection import crowded_tournament, tournament
from gqasearch.searching.evolution.variation import mutate, usable_weights
from gqasearch.searching.operators import exchange_layers
from gqasearch.searching.problem import Problem
from gqasearch.searching.record import Individual, Record
from gqasearch.searching.search_run import SearchRun
from gqasearch.searching.starts import starting_groupings

AnyDescent: TypeAlias = PairwiseDescent | GroupDescent | ScreenedDescent | NeighbourDescent

# A child that was evaluated before is mutated again, at most so often.
ATTEMPTS = 10


class EvolutionRun(SearchRun):
    """The population, the record, and DEAP's toolbox with our operators in it."""

    def __init__(self, method: EvolutionParameters, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(problem, rng, method.max_evaluations)
        self.method = method
        self.idle = 0
        self.exhausted = False
        self.population: list[Individual] = []
        self.descent = self._make_descent()
        self.toolbox = self._make_toolbox()

    def _make_descent(self) -> AnyDescent:
        return make_descent(self.record, self.rng)

    def _make_toolbox(self) -> Any:
        method, problem, rng = self.method, self.problem, self.rng
        weights = {name: getattr(method, name) for name in ("swap", "move", "merge_split", "shift")}
        toolbox = base.Toolbox()
        toolbox.register("evaluate", self.record.evaluate)
        toolbox.register("mate", exchange_layers, budget=problem.budget, free_counts=problem.free_counts, rng=rng)
        toolbox.register("mutate", mutate, problem=problem, weights=usable_weights(weights, problem), rng=rng)
        toolbox.register("descend", self.descent.descend, steps=method.steps_for(problem))
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
        """True when a stopping rule holds."""
        method = self.method
        return self.exhausted or self.record.is_full or self.index >= method.generations or self.idle >= method.patience

    def start(self) -> None:
        """Generation 0: neighbours, random partitions and, of a sum over groups, where greedy merges lead."""
        starts = starting_groupings(self.problem, self.method.population, self.rng)
        self._survive([*self.toolbox.evaluate(starts), *self._merged()])

    def _merged(self) -> list[Individual]:
        """The descent from greedy merges; nothing where the objective is no sum or there is no descent."""
        problem = self.problem
        if problem.layer_errors is None or problem.num_layers > 1 or self.method.steps_for(self.problem) == 0:
            return []
        layer, looked_at = merged_down(problem.budget.counts[0], problem.layer_errors[0], problem.budget, self.rng)
        if not self.record.charge(looked_at):
            return []
        descended: list[Individual] = self.toolbox.descend(self.toolbox.evaluate([Grouping((layer,))]))
        return descended[:1]

    def advance(self) -> None:
        """One generation."""
        evaluations, front = len(self.record), self.record.front
        # Sets the crowding distances that ``pick`` compares: of the survivors alone, so that a search
        # that goes on from a state has the same ones.
        self.toolbox.select(self.population, len(self.population))
        children = self.toolbox.evaluate(self._children())
        self._survive([*self.population, *self._refine(children)])
        self.idle = 0 if self.record.front is not front else self.idle + 1
        self.exhausted = len(self.record) == evaluations

    def _children(self) -> list[Grouping]:
        """Groupings that were never evaluated, all different."""
        children: dict[Grouping, None] = {}
        for _ in range(self.method.offspring):
            parents = self.toolbox.pick(self.population), self.toolbox.pick(self.population)
            self._add_new(self._child(*parents), children)
        return list(children)

    def _add_new(self, child: Grouping, children: dict[Grouping, None]) -> None:
        """Add the child, or the first of its mutants, that was never evaluated."""
        for _ in range(ATTEMPTS):
            if child not in children and child not in self.record:
                children[child] = None
                return
            child = self.toolbox.mutate(child)

    def _child(self, mother: Individual, father: Individual) -> Grouping:
        child: Grouping = mother.grouping
        crossed = self.rng.random() < self.method.crossover_rate
        if crossed:
            child = self.toolbox.mate(mother.grouping, father.grouping)
        if not crossed or self.rng.random() < self.method.mutation_rate:
            child = self.toolbox.mutate(child)
        return child

    def _refine(self, children: list[Individual]) -> list[Individual]:
        """The children, the best of them replaced by where their descent ends."""
        few = min(len(children), self.method.individuals_for(self.problem))
        if self.method.steps_for(self.problem) == 0 or not few:
            return children
        best = self.toolbox.select(children, few)
        chosen = {individual.index for individual in best}
        descended: list[Individual] = self.toolbox.descend(best)
        return [child for child in children if child.index not in chosen] + descended

    def _survive(self, pool: list[Individual]) -> None:
        """Keep the best of the pool, each once: two descents may have met."""
        distinct = list({individual.index: individual for individual in pool}.values())
        self.population = self.toolbox.select(distinct, min(self.method.population, len(distinct)))


def make_descent(record: Record, rng: np.random.Generator) -> AnyDescent:
    """The descent that makes the most of what is known of the objective."""
    problem = record.problem
    if problem.layer_errors is not None and problem.num_layers == 1:
        errors = problem.layer_errors[0]
        if isinstance(errors, PairwiseErrors):
            return PairwiseDescent(record, errors.distances)
        if isinstance(errors, SetErrors):
            return GroupDescent(record, errors, rng)
    return NeighbourDescent(record, rng)
