"""Search a sum over layers whose budget is shared: a curve for every layer, then the exact split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.allocation import BudgetSplit, split_budget
from gqasearch.searching.limit import NO_LIMIT, Limit
from gqasearch.searching.operators import allowed_counts
from gqasearch.searching.problem import Candidate, FloatArray, Generation, Problem


def search_split(
    method: SearchMethod,
    problem: Problem,
    rng: np.random.Generator,
    limit: Limit = NO_LIMIT,
) -> Iterator[Generation]:
    """Trace every layer's error against its number of groups with ``method``; split the budget by knapsack.

    Yields whole-model generations: the best split of what is known so far, neighbours where nothing was
    searched. The last generation of a search with free counts holds the best grouping of every total. A method
    that traces no curve by itself is run for every number of groups.
    """
    run = _Split(method, problem, rng, limit)
    problem.clock.tick()
    yield run.generation()
    for step in run.plan:
        for inner in run.search_step(step):
            yield run.generation(inner)
        run.end_step()
    if problem.free_counts:
        problem.clock.tick()
        yield run.generation(whole_front=True)


@dataclass(frozen=True)
class _Step:
    """One search: a layer, and its number of groups or None for all of them."""

    layer: int
    groups: int | None
    seed: int


class _Split:
    """The curves of all layers as far as they are known, and the search in progress."""

    def __init__(self, method: SearchMethod, problem: Problem, rng: np.random.Generator, limit: Limit) -> None:
        self.method, self.problem = method, problem
        self.counts = allowed_counts(problem.budget)
        each = [None] if method.traces_curve else [g for g in self.counts if 1 < g < problem.num_heads]
        places = [(layer, groups) for layer in range(problem.num_layers) for groups in each]
        seeds = rng.integers(2**63, size=len(places)).tolist()
        self.plan = [_Step(*place, seed) for place, seed in zip(places, seeds, strict=True)]
        self.limit = limit.share(max(1, len(self.plan)))
        self.index = -1
        self.evaluations = self.inner_evaluations = 0
        # Best known partition of every layer for every number of groups: neighbours at first.
        self.curves: list[dict[int, Candidate]] = []
        neighbours = [Grouping((LayerGrouping.neighbours(problem.num_heads, g),)) for g in self.counts]
        for layer in range(problem.num_layers):
            known = problem.layer_problem(layer).evaluate(neighbours)
            self.curves.append({found.grouping.kv_heads_total: found for found in known})
            for count in {1, problem.num_heads} & self.curves[layer].keys():  # one partition, the best
                only = self.curves[layer][count]
                self.curves[layer][count] = replace(only, lower_bounds=only.values)
            self.evaluations += len(known)

    def search_step(self, step: _Step) -> Iterator[Generation]:
        """The generations of one search; keeps what they find."""
        problem = self.problem.layer_problem(step.layer, free_counts=step.groups is None)
        if step.groups is not None:
            problem = replace(problem, budget=replace(problem.budget, counts=(step.groups,)))
        for inner in self.limit.search(self.method, problem, np.random.default_rng(step.seed)):
            self._keep(step.layer, inner)
            yield inner

    def end_step(self) -> None:
        self.evaluations += self.inner_evaluations
        self.inner_evaluations = 0

    def _keep(self, layer: int, inner: Generation) -> None:
        for found in inner.front:
            count = found.grouping.kv_heads_total
            if count not in self.counts:
                continue  # a method that traces a curve may need what lies between
            known = self.curves[layer].get(count)
            if known is None or (found.values[0] <= known.values[0] and not known.lower_bounds):
                self.curves[layer][count] = Candidate(found.grouping, found.values[:1], found.lower_bounds)

    def generation(self, inner: Generation | None = None, *, whole_front: bool = False) -> Generation:
        """The whole model's generation; ``inner``: of the search in progress, None when there is none."""
        self.index += 1
        self.inner_evaluations = 0 if inner is None else inner.evaluations
        split = split_budget(self._errors())
        best = self._candidate(split, split.best_total(self.problem.budget.total))
        front = self._front(split) if whole_front else (best,)
        return Generation(self.index, self.evaluations + self.inner_evaluations, best, front)

    def _errors(self) -> FloatArray:
        """Error of every layer with g + 1 groups, (L, H); inf where no partition is known."""
        errors = np.full((self.problem.num_layers, self.problem.num_heads), np.inf)
        for layer, curve in enumerate(self.curves):
            for count, candidate in curve.items():
                errors[layer, count - 1] = candidate.values[0]
        return errors

    def _candidate(self, split: BudgetSplit, total: int) -> Candidate:
        """The best known grouping with exactly this many groups in all."""
        chosen = [curve[count] for curve, count in zip(self.curves, split.counts(total), strict=True)]
        grouping = Grouping(tuple(candidate.grouping.layers[0] for candidate in chosen))
        bounds = tuple(bound for candidate in chosen for bound in candidate.lower_bounds)
        others = list(self.problem.objectives.values())[1:]
        values = (float(split.errors[total]), *(float(objective([grouping])[0]) for objective in others))
        return Candidate(grouping, values, bounds if len(bounds) == len(chosen) else ())

    def _front(self, split: BudgetSplit) -> tuple[Candidate, ...]:
        """The best of every total that is better than that of all smaller totals."""
        lowest, front = np.inf, []
        for total in range(1, len(split.errors)):
            if split.errors[total] < lowest:
                lowest = split.errors[total]
                front.append(self._candidate(split, total))
        return tuple(front)
