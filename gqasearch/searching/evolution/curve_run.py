"""An evolution under way that traces the error of one layer for every number of groups at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from deap import tools  # type: ignore[import-untyped]

from gqasearch.budget import Budget
from gqasearch.group_errors import GroupErrors
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching.evolution.beside import best_merge, best_split
from gqasearch.searching.evolution.evolution_parameters import EvolutionParameters
from gqasearch.searching.evolution.evolution_run import EvolutionRun
from gqasearch.searching.evolution.selection import tournament
from gqasearch.searching.evolution.variation import mutate, usable_weights
from gqasearch.searching.operators import count_range, crossover, random_partition
from gqasearch.searching.problem import Problem
from gqasearch.searching.record import Individual


class CurveRun(EvolutionRun):
    """A niche of survivors for every number of groups, between which good partitions travel.

    The best partition into G groups is often near one into G - 1 or G + 1. So the first generation has a
    chain of merges and descents from the most groups down to the fewest, a father may come from the
    niches beside, and whenever these have a new best partition, its best merge or split is a child. A niche is
    bred while it or one beside it found something better in the last ``patience`` generations.
    """

    def __init__(self, method: EvolutionParameters, problem: Problem, rng: np.random.Generator) -> None:
        if problem.layer_errors is None:
            raise ValueError("a curve is traced for a sum over groups")
        self.errors: GroupErrors = problem.layer_errors[0]
        low, high = count_range(problem.budget)
        self.counts = range(low, high + 1)
        # Generations since a niche found something better; its best partition then, by place in the record.
        self.idle_niches = dict.fromkeys(self.counts, 0)
        self.best_of: dict[int, int] = {}
        super().__init__(method, problem, rng)

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
        """Generation 0: neighbours, random partitions and a chain of merges."""
        budget, starts = self.problem.budget, []
        for count in self.counts:
            starts.append(LayerGrouping.neighbours(budget.num_heads, count))
            starts += [random_partition(count, budget, self.rng) for _ in range(self.method.niche - 1)]
        distinct = dict.fromkeys(Grouping((start,)) for start in starts)
        self._survive([*self.toolbox.evaluate(list(distinct)), *self._chain()])

    def _chain(self) -> Iterator[Individual]:
        """From the most groups to the fewest: the two merge that cost least, then a descent."""
        layer = LayerGrouping.neighbours(self.problem.num_heads, self.counts[-1])
        while (merged := best_merge(layer, self.errors, self.problem.budget)) is not None:
            if not self.record.charge(layer.num_groups * (layer.num_groups - 1) // 2):
                return
            for individual in self.toolbox.descend(self.toolbox.evaluate([Grouping((merged,))]))[:1]:
                layer = individual.grouping.layers[0]
                yield individual

    def _children(self) -> list[Grouping]:
        """New groupings for every niche that is bred, all different."""
        niches = self._niches(self.population)
        children: dict[Grouping, None] = {}
        for count in filter(self._is_bred, self.counts):
            self._breed(count, niches, children)
        return list(children)

    def _is_bred(self, count: int) -> bool:
        """Whether a niche has more than one partition, and it or one beside it found something of late."""
        return self._quiet(count) < self.method.patience and 1 < count < self.problem.num_heads

    def _quiet(self, count: int) -> int:
        """Generations since this niche or one beside it found something better."""
        return min(self.idle_niches.get(c, self.idle) for c in (count - 1, count, count + 1))

    def _breed(self, count: int, niches: dict[int, list[Individual]], children: dict[Grouping, None]) -> None:
        """Add merges and splits from beside, and ``niche`` new groupings."""
        for child in self._from_beside(count, niches):
            self._add_new(child, children)
        for child in self._crossed(count, niches, self.method.niche):
            self._add_new(child, children)

    def _crossed(self, count: int, niches: dict[int, list[Individual]], number: int) -> Iterator[Grouping]:
        """Children of a mother in this niche and a father in it or beside it."""
        near = [one for c in (count - 1, count, count + 1) for one in niches.get(c, [])]
        for _ in range(number):
            father = near[int(self.rng.integers(len(near)))]
            yield self._child(self.toolbox.pick(niches[count]), father)

    def _from_beside(self, count: int, niches: dict[int, list[Individual]]) -> Iterator[Grouping]:
        """The best merge of the best above and the best split of the best below, where these are new."""
        for other, make in ((count + 1, best_merge), (count - 1, best_split)):
            if niches.get(other) and self.idle_niches[other] == 0:
                layer = niches[other][0].grouping.layers[0]
                made = make(layer, self.errors, self.problem.budget)
                looked_at = other * (other - 1) // 2 if make is best_merge else layer.num_heads
                if made is not None and self.record.charge(looked_at):
                    yield Grouping((made,))

    def _refine(self, children: list[Individual]) -> list[Individual]:
        """Where the descents of all children end."""
        descended: list[Individual] = self.toolbox.descend(children)
        return descended

    def _survive(self, pool: list[Individual]) -> None:
        """Keep the best of every niche, and count the generations in which it stayed the same."""
        distinct = list({individual.index: individual for individual in pool}.values())
        self.population = []
        for count, niche in self._niches(distinct).items():
            kept = self.toolbox.select(niche, min(self.method.niche, len(niche)))
            self.population += kept
            if kept:
                same = self.best_of.get(count) == kept[0].index
                self.idle_niches[count] = self.idle_niches[count] + 1 if same else 0
                self.best_of[count] = kept[0].index

    def _niches(self, individuals: list[Individual]) -> dict[int, list[Individual]]:
        niches: dict[int, list[Individual]] = {count: [] for count in self.counts}
        for individual in individuals:
            niches[individual.grouping.kv_heads_total].append(individual)
        return niches


def _mate(mother: Grouping, father: Grouping, budget: Budget, rng: np.random.Generator) -> Grouping:
    """A child with the mother's number of groups."""
    first, second = mother.layers[0], father.layers[0]
    return Grouping((crossover(first, second, first.num_groups, budget, rng),))
