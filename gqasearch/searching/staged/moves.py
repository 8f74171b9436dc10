"""Mutations of whole models that know the guide's table and what a layer costs to run."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from gqasearch.grouping import Grouping
from gqasearch.pairwise import FloatArray
from gqasearch.searching.evolution.variation import LAYER_MUTATIONS
from gqasearch.searching.operators import allowed_counts, repair
from gqasearch.searching.problem import Problem
from gqasearch.searching.staged.guide import GuideTable

# (layer, its change of the number of groups): one of them, or one up and one down.
Change: TypeAlias = tuple[tuple[int, int], ...]


class Moves:
    """Draws mutations; ``weights``: of switch, swap, move and merge_split.

    A layer is drawn with a chance in proportion to 1 / (layers from it to the last): what a candidate costs.
    """

    def __init__(
        self, problem: Problem, table: GuideTable, weights: dict[str, float], rng: np.random.Generator
    ) -> None:
        self.problem, self.table, self.rng = problem, table, rng
        usable = dict(weights)
        if not (problem.budget.movable or problem.free_counts):
            usable.pop("switch")
        if problem.budget.smallest_group == problem.budget.largest:
            usable.pop("move")
        self.names = list(usable)
        self.chances = np.array(list(usable.values())) / sum(usable.values())
        self.cheapness: FloatArray = 1.0 / np.arange(problem.num_layers, 0, -1)

    def mutate(self, grouping: Grouping) -> Grouping:
        """One operator, another with chance 1/2, and so on; may give ``grouping`` back."""
        while True:
            name = self.names[int(self.rng.choice(len(self.names), p=self.chances))]
            grouping = self._switch(grouping) if name == "switch" else self._mutate_layer(grouping, name)
            if self.rng.random() < 0.5:
                return grouping

    def _mutate_layer(self, grouping: Grouping, name: str) -> Grouping:
        layers = [i for i, count in enumerate(grouping.group_counts) if 1 < count < grouping.num_heads]
        if not layers:
            return grouping
        layer = layers[self._draw([self.cheapness[i] for i in layers])]
        changed = LAYER_MUTATIONS[name](grouping.layers[layer], self.problem.budget, self.rng)
        return grouping.replace_layer(layer, changed)

    def _switch(self, grouping: Grouping) -> Grouping:
        """One layer a step up and one a step down; where counts are free, also one of the two alone."""
        allowed, step = allowed_counts(self.problem.budget), self.problem.budget.count_step
        up = [layer for layer, count in enumerate(grouping.group_counts) if count < allowed[-1]]
        down = [layer for layer, count in enumerate(grouping.group_counts) if count > allowed[0]]
        changes: list[Change] = [((a, step), (b, -step)) for a in up for b in down if a != b]
        if self.problem.free_counts:
            changes += [((a, step),) for a in up] + [((b, -step),) for b in down]
        if not changes:
            return grouping
        cheapness = [self.cheapness[min(layer for layer, _ in change)] for change in changes]
        for layer, change in changes[self._draw(cheapness)]:
            grouping = self._resize(grouping, layer, change)
        return grouping

    def _resize(self, grouping: Grouping, layer: int, change: int) -> Grouping:
        """The table's partition for the new number of groups, or the old one with groups merged or split at random."""
        old = grouping.layers[layer]
        count = old.num_groups + change
        if self.rng.random() < 0.5:
            return grouping.replace_layer(layer, self.table.partitions[layer][count])
        return grouping.replace_layer(layer, repair(old.groups, count, self.problem.budget, self.rng))

    def _draw(self, weights: list[float]) -> int:
        chances = np.array(weights)
        return int(self.rng.choice(len(weights), p=chances / chances.sum()))
