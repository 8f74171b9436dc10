"""A staged evolution under way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from deap import tools  # type: ignore[import-untyped]

from gqasearch.contract import PreparedTextFitness
from gqasearch.grouping import Grouping
from gqasearch.pairwise import FloatArray
from gqasearch.searching.operators import allowed_counts, exchange_layers
from gqasearch.searching.problem import Generation, Problem
from gqasearch.searching.record import Individual
from gqasearch.searching.search_run import SearchRun
from gqasearch.searching.staged.guide import GuideTable, trace_guide
from gqasearch.searching.staged.moves import Moves
from gqasearch.searching.staged.sensitivity import Measure, measure_sensitivity
from gqasearch.searching.staged.staged_parameters import StagedParameters

# A child that was met before is mutated again, at most so often.
ATTEMPTS = 10


class StagedRun(SearchRun):
    """Survivors, measured on the whole text, and the record of all that were."""

    def __init__(self, method: StagedParameters, problem: Problem, rng: np.random.Generator) -> None:
        if problem.partial is None or problem.guide is None:
            raise ValueError("staged evolution needs an objective on parts of its text, and a guide")
        super().__init__(problem, rng)
        self.method = method
        self.partial: PreparedTextFitness = problem.partial
        self.guide = problem.guide
        self.survivors = method.population_size(problem)
        self.idle = 0
        self.population: list[Individual] = []
        # Finalists and their final objective, best first; empty until the search has ended.
        self.finals: list[tuple[Individual, float]] = []
        # Genomes that an early stage dropped.
        self.dropped: set[bytes] = set()
        self.begun = problem.clock.seconds
        self.table: GuideTable
        self.moves: Moves

    @property
    def is_done(self) -> bool:
        """True when a stopping rule holds and the finalists, where there are any, are measured."""
        return self._has_ended and bool(self.finals or not self.method.has_finals(self.problem))

    @property
    def _has_ended(self) -> bool:
        method = self.method
        late = method.max_seconds is not None and self.problem.clock.seconds - self.begun >= method.max_seconds
        return late or self.index >= method.generations or self.idle >= method.patience

    def start(self) -> None:
        """Generation 0: what the guide proposes."""
        self._use(trace_guide(self.guide, self.problem.budget, self.rng))
        self._survive(self.record.evaluate(self._proposals()))

    def _use(self, table: GuideTable) -> None:
        method = self.method
        weights = {name: getattr(method, name) for name in ("switch", "swap", "move", "merge_split")}
        self.table, self.moves = table, Moves(self.problem, table, weights, self.rng)

    def _proposals(self) -> list[Grouping]:
        """The best partitions for even, exact and sensitivity-weighted splits; of many levels where counts are free."""
        problem, table = self.problem, self.table
        even = table.grouping(problem.budget.counts)
        if not (problem.budget.movable or problem.free_counts):
            return [even]
        splits: list[FloatArray | None] = [None]
        if self.method.sensitivity_levels:
            splits += measure_sensitivity(table, self._measure_on_part(), self.method.sensitivity_levels)
        totals = self._totals(2 * self.survivors // len(splits)) if problem.free_counts else [problem.budget.total]
        return list(dict.fromkeys([even, *(table.split(total, weights) for total in totals for weights in splits)]))

    def _totals(self, number: int) -> list[int]:
        """Numbers of groups of the model, from the fewest to the most; all splits of all make two for a survivor."""
        allowed, step = allowed_counts(self.problem.budget), self.problem.budget.count_step
        units = np.linspace(allowed[0] // step, allowed[-1] // step, max(2, number)) * self.problem.num_layers
        totals: list[int] = (np.unique(np.rint(units)).astype(int) * step).tolist()
        return totals

    def _guides_own(self) -> Grouping:
        """What the guide alone would choose."""
        budget = self.problem.budget
        return self.table.split(budget.total) if budget.movable else self.table.grouping(budget.counts)

    def _measure_on_part(self) -> Measure:
        """The objective on as much text as the first stage has."""
        batches = self._batches_of(self.method.first_tokens, self._any_order())

        def measure(groupings: list[Grouping]) -> FloatArray:
            self.record.charge(len(groupings))
            return np.array([candidate.values[0] for candidate in self.problem.evaluate_on(groupings, batches)])

        return measure

    def advance(self) -> None:
        """One generation: children, stage by stage, then survival among them and their parents; or the finals."""
        if self._has_ended:
            self._measure_finalists()
        else:
            self._breed()

    def _breed(self) -> None:
        front = self.record.front
        order = self._any_order()
        children = self._children()
        for batches in self._stages(order):
            children = self._best_of(children, batches)
        self._survive([*self.population, *self.record.evaluate(children)])
        self.idle = 0 if self.record.front is not front else self.idle + 1

    def _measure_finalists(self) -> None:
        """The best survivors, and the guide's own split, which the stand-in for the final objective may wrong."""
        best = tools.selBest(self.population, self.method.finalists)
        chosen = {one.index: one for one in [*best, *self.record.evaluate([self._guides_own()])]}  # met at the start
        self.record.charge(len(chosen))
        values = self.problem.evaluate_final([one.grouping for one in chosen.values()])
        self.finals = sorted(zip(chosen.values(), values, strict=True), key=lambda pair: pair[1])

    def _any_order(self) -> list[int]:
        order: list[int] = self.rng.permutation(len(self.partial.batch_tokens)).tolist()
        return order

    def _stages(self, order: list[int]) -> list[list[int]]:
        """Batches of every stage but the last, which has all; each has more than the one before."""
        stages: list[list[int]] = []
        tokens = self.method.first_tokens
        while len(batches := self._batches_of(tokens, order)) < len(order):
            if not stages or len(batches) > len(stages[-1]):
                stages.append(batches)
            tokens *= self.method.reduction
        return stages

    def _batches_of(self, tokens: int, order: list[int]) -> list[int]:
        """The first batches in this order that hold ``tokens`` tokens, or all of them."""
        before = np.cumsum([0, *(self.partial.batch_tokens[batch] for batch in order)])[:-1]
        return [batch for batch, held in zip(order, before.tolist(), strict=True) if held < tokens]

    def _best_of(self, children: list[Grouping], batches: list[int]) -> list[Grouping]:
        """The best 1 / ``reduction`` on these batches; the others are remembered as dropped."""
        few = max(1, -(-len(children) // self.method.reduction))
        if len(children) <= few:
            return children
        measured = [Individual(i, c) for i, c in enumerate(self.problem.evaluate_on(children, batches))]
        kept = {individual.index for individual in self._select(measured, few)}
        self.record.charge(len(children) - len(kept))  # those kept are charged in the last stage
        self.dropped.update(self.record.key(c) for i, c in enumerate(children) if i not in kept)
        return [child for index, child in enumerate(children) if index in kept]

    def _select(self, pool: list[Individual], count: int) -> list[Individual]:
        if len(self.problem.objectives) > 1:
            # DEAP's standard non-dominated sort is 20 to 60 times slower.
            chosen: list[Individual] = tools.selNSGA2(pool, count, nd="log")
        else:
            chosen = tools.selBest(pool, count)
        return chosen

    def _children(self) -> list[Grouping]:
        """Groupings that were never met, all different."""
        children: dict[Grouping, None] = {}
        for _ in range(self.method.offspring):
            mother, father = (self.population[i].grouping for i in self.rng.integers(len(self.population), size=2))
            crossed = self.rng.random() < self.method.crossover_rate and mother != father
            child = mother
            if crossed:
                child = exchange_layers(mother, father, self.problem.budget, self.problem.free_counts, self.rng)
            for _ in range(ATTEMPTS):
                if not (child in children or child in self.record or self.record.key(child) in self.dropped):
                    children[child] = None
                    break
                child = self.moves.mutate(child)
        return list(children)

    def _survive(self, pool: list[Individual]) -> None:
        distinct = list({individual.index: individual for individual in pool}.values())
        self.population = self._select(distinct, min(self.survivors, len(distinct)))

    def generation(self) -> Generation:
        found = super().generation()
        if not self.finals:
            return found
        chosen, value = self.finals[0]
        best = replace(chosen.candidate, final=value)
        return replace(found, best=best, front=(best,))
