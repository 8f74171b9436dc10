"""One QCQA search under way: a population for every layer in turn, then one over the layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.pairwise import FloatArray, IntArray
from gqasearch.searching.papers.nsga2_genomes import ChoiceGenomes, LayerGenomes
from gqasearch.searching.papers.nsga2_integers import NSGA2, Rates
from gqasearch.searching.problem import Candidate, Generation, Problem
from gqasearch.searching.starts import neighbour_grouping

# NSGA-II's generations in one generation of the search: history and state are written that often at most.
BATCH = 10

# Lowest error met and what has it, for every number of groups: labels (H,) or a choice for every layer (L,).
Curve: TypeAlias = dict[int, tuple[float, tuple[int, ...]]]


@dataclass(frozen=True)
class Settings:
    """What a method asks of its search; ``layer_groups`` None: stage 2 has the whole table."""

    method: str
    genomes: LayerGenomes
    population: int
    generations: int
    crossover_rate: float
    mutation_rate: float | None
    layer_groups: int | None


class Stages:
    """The curves of the layers met so far, and the population in progress.

    ``step``: the layer in progress, L in stage 2, -1 before all.
    """

    def __init__(self, settings: Settings, problem: Problem, rng: np.random.Generator) -> None:
        if problem.layer_errors is None:
            raise ValueError("QCQA searches sums over layers only")
        self.settings, self.problem, self.rng = settings, problem, rng
        self.layer_errors = problem.layer_errors
        self.index = self.step = -1
        self.curves: list[Curve] = [{} for _ in self.layer_errors]
        # Stage 2's lowest sum of errors for every number of KV heads.
        self.whole: Curve = {}
        # Neighbours everywhere: what there is before stage 2.
        grouping = neighbour_grouping(problem)
        pairs = zip(self.layer_errors, grouping, strict=True)
        error = sum(float(errors.evaluate(np.array([layer.labels]))[0]) for errors, layer in pairs)
        self.neighbours = self._candidate(error, grouping)
        self.evaluations = problem.num_layers
        self.options: list[list[tuple[float, LayerGrouping]]] = []
        self.counts: IntArray
        self.errors: FloatArray

    def generations(self) -> Iterator[Generation]:
        """The neighbours, then every population in batches of its generations."""
        yield self._generation(is_over=False)
        most, layers = self.settings.generations, self.problem.num_layers
        for self.step in range(layers + 1):
            population = self._population()
            population.start()
            for first in range(0, max(1, most), BATCH):
                for _ in range(min(BATCH, most - first)):
                    population.advance()
                yield self._generation(is_over=self.step == layers and population.generation >= most)

    def _population(self) -> NSGA2:
        """The empty population of this step."""
        settings, layers = self.settings, self.problem.num_layers
        if self.step < layers:
            rates = Rates(settings.population, settings.crossover_rate, self._mutation(self.problem.num_heads))
            return NSGA2(settings.genomes, self._evaluate_partitions, rates, self.rng)
        self._list_options()
        rates = Rates(settings.population, settings.crossover_rate, self._mutation(layers))
        choices = ChoiceGenomes([len(options) for options in self.options])
        return NSGA2(choices, self._evaluate_choices, rates, self.rng)

    def _mutation(self, genes: int) -> float:
        return 1 / genes if self.settings.mutation_rate is None else self.settings.mutation_rate

    def _evaluate_partitions(self, genomes: IntArray) -> FloatArray:
        """Stage 1: (groups / H, error), (N, 2)."""
        labels = self.settings.genomes.labels(genomes)
        errors = self.layer_errors[self.step].evaluate(labels)
        counts = 1 + (np.diff(np.sort(labels, axis=1), axis=1) > 0).sum(axis=1)
        self.evaluations += len(genomes)
        _keep(self.curves[self.step], counts, errors, labels)
        return np.stack([counts / self.problem.num_heads, errors], axis=1)

    def _evaluate_choices(self, genomes: IntArray) -> FloatArray:
        """Stage 2: (KV heads, sum of errors), (N, 2)."""
        layers = np.arange(self.problem.num_layers)
        totals = self.counts[layers, genomes].sum(axis=1)
        errors = self.errors[layers, genomes].sum(axis=1)
        self.evaluations += len(genomes)
        _keep(self.whole, totals, errors, genomes)
        return np.stack([totals.astype(np.float64), errors], axis=1)

    def _list_options(self) -> None:
        """Stage 2's choices of every layer: points of stage 1, and MHA."""
        heads = self.problem.num_heads
        self.options = []
        for curve in self.curves:
            counts = [count for count in _front(curve) if count < heads]
            if self.settings.layer_groups is not None:
                affordable = [count for count in counts if count <= self.settings.layer_groups]
                counts = affordable[-1:] or counts[:1]
            options = [(curve[count][0], LayerGrouping.from_labels(curve[count][1])) for count in counts]
            self.options.append([*options, (0.0, LayerGrouping.singletons(heads))])
        shape = len(self.options), max(map(len, self.options))
        self.counts, self.errors = np.zeros(shape, dtype=np.int64), np.zeros(shape)
        for layer, options in enumerate(self.options):
            self.counts[layer, : len(options)] = [grouping.num_groups for _, grouping in options]
            self.errors[layer, : len(options)] = [error for error, _ in options]

    def _candidate(self, error: float, grouping: Grouping) -> Candidate:
        others = list(self.problem.objectives.values())[1:]
        return Candidate(grouping, (error, *(float(objective([grouping])[0]) for objective in others)))

    def _chosen(self, total: int) -> Candidate:
        """Stage 2's best with this many KV heads."""
        error, genome = self.whole[total]
        layers = (options[choice][1] for options, choice in zip(self.options, genome, strict=True))
        return self._candidate(error, Grouping(tuple(layers)))

    def _best(self) -> Candidate:
        within = [total for total in _front(self.whole) if total <= self.problem.budget.total]
        if not within or self.whole[within[-1]][0] >= self.neighbours.values[0]:
            return self.neighbours
        return self._chosen(within[-1])

    def _whole_front(self) -> tuple[Candidate, ...]:
        """Non-dominated points of stage 2 and, where it is one of them, neighbours."""
        error, total = self.neighbours.values[0], self.neighbours.grouping.kv_heads_total
        points = {total: (error, ()), **self.whole}
        if error < points[total][0]:
            points[total] = (error, ())
        return tuple(self._chosen(t) if points[t][1] else self.neighbours for t in _front(points))

    def _generation(self, *, is_over: bool) -> Generation:
        best = self._best()
        front = self._whole_front() if is_over and len(self.problem.objectives) > 1 else (best,)
        self.index += 1
        return Generation(self.index, self.evaluations, best, front)


def _keep(curve: Curve, counts: IntArray, errors: FloatArray, rows: IntArray) -> None:
    """Take up what is better than all met with as many groups."""
    for row, (count, error) in enumerate(zip(counts.tolist(), errors.tolist(), strict=True)):
        if count not in curve or error < curve[count][0]:
            curve[count] = error, tuple(rows[row].tolist())


def _front(curve: Curve) -> list[int]:
    """Numbers of groups that no fewer groups are as good as, ascending; the last has the lowest error."""
    front: list[int] = []
    for count in sorted(curve):
        if not front or curve[count][0] < curve[front[-1]][0]:
            front.append(count)
    return front
