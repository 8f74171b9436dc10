"""An evolution under way that traces the error of one layer for every number of groups at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from deap import tools  # type: ignore[import-untyped]

from gqasearch.budget import Budget
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.search.evolution.evolution_run import EvolutionRun
from gqasearch.search.evolution.selection import tournament
from gqasearch.search.evolution.variation import mutate, usable_weights
from gqasearch.search.operators import count_range, crossover, random_partition
from gqasearch.search.record import Individual


class CurveRun(EvolutionRun):
    """A niche of survivors for every number of groups; good partitions travel between niches by crossover.

    The best partition into G groups is often near one into G - 1 or G + 1, so a father may come from the
    niches beside.
    """

    def _make_toolbox(self) -> Any:
        toolbox = super()._make_toolbox()
        fixed = replace(self.problem, free_counts=False)
        weights = {name: getattr(self.method, name) for name in ("swap", "move", "merge_split")}
        toolbox.register("mate", _mate, budget=self.problem.budget, rng=self.rng)
        toolbox.register("mutate", mutate, problem=fixed, weights=usable_weights(weights, fixed), rng=self.rng)
        toolbox.register("pick", tournament, size=self.method.tournament_size, rng=self.rng)
        toolbox.register("select", tools.selBest)
        return toolbox

    def start(self) -> None:
        """Generation 0: neighbours and random partitions in every niche."""
        budget, starts = self.problem.budget, []
        for count in self._counts():
            starts.append(LayerGrouping.neighbours(budget.num_heads, count))
            starts += [random_partition(count, budget, self.rng) for _ in range(self.method.niche - 1)]
        self._survive(self.toolbox.evaluate(list(dict.fromkeys(Grouping((start,)) for start in starts))))

    def _counts(self) -> range:
        low, high = count_range(self.problem.budget)
        return range(low, high + 1)

    def _children(self) -> list[Grouping]:
        """``niche`` new groupings for every number of groups that has more than one partition."""
        niches = self._niches(self.population)
        children: dict[Grouping, None] = {}
        for count in self._counts():
            if 1 < count < self.problem.num_heads:
                near = [one for c in (count - 1, count, count + 1) for one in niches.get(c, [])]
                for _ in range(self.method.niche):
                    father = near[int(self.rng.integers(len(near)))]
                    self._add_new(self._child(self.toolbox.pick(niches[count]), father), children)
        return list(children)

    def _refine(self, children: list[Individual]) -> list[Individual]:
        """Where the descents of all children end."""
        descended: list[Individual] = self.toolbox.descend(children)
        return descended

    def _survive(self, pool: list[Individual]) -> None:
        """Keep the best of every niche."""
        distinct = list({individual.index: individual for individual in pool}.values())
        niches = self._niches(distinct)
        self.population = [
            one for niche in niches.values() for one in self.toolbox.select(niche, min(self.method.niche, len(niche)))
        ]

    def _niches(self, individuals: list[Individual]) -> dict[int, list[Individual]]:
        niches: dict[int, list[Individual]] = {count: [] for count in self._counts()}
        for individual in individuals:
            niches[individual.grouping.kv_heads_total].append(individual)
        return niches


def _mate(mother: Grouping, father: Grouping, budget: Budget, rng: np.random.Generator) -> Grouping:
    """A child with the mother's number of groups."""
    first, second = mother.layers[0], father.layers[0]
    return Grouping((crossover(first, second, first.num_groups, budget, rng),))
