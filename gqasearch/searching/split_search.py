"""Search a sum over layers whose budget is shared: a curve for every layer, then the exact split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.allocation import BudgetSplit, split_budget
from gqasearch.searching.limit import NO_LIMIT, Limit
from gqasearch.searching.operators import allowed_counts
from gqasearch.searching.problem import Candidate, FloatArray, Generation, Problem
from gqasearch.searching.state import load_candidate, require_method, restore_rng, save_candidate, save_rng


def search_split(
    method: SearchMethod,
    problem: Problem,
    rng: np.random.Generator,
    state: dict[str, Any] | None = None,
    limit: Limit = NO_LIMIT,
) -> Iterator[Generation]:
    """Trace every layer's error against its number of groups with ``method``; split the budget by knapsack.

    Yields whole-model generations: the best split of what is known so far, neighbours where nothing was
    searched. The last generation of a search with free counts holds the best grouping of every total. A method
    that traces no curve by itself is run for every number of groups.
    """
    run = _Split(method, problem, rng, limit)
    if state is None:
        run.start()
        yield run.generation(None)
    else:
        run.load(state)
    had_ended, yielded = run.step == len(run.plan), state is None
    while run.step < len(run.plan):
        for inner in run.search_step():
            yielded = True
            run.index += 1
            yield run.generation(inner)
        run.next_step()
    if problem.free_counts:
        run.index += not had_ended
        yield run.generation(None, whole_front=True)
    elif not yielded:
        yield run.generation(None)


@dataclass(frozen=True)
class _Step:
    """One search: a layer, and its number of groups or None for all of them."""

    layer: int
    groups: int | None


class _Split:
    """The curves of all layers as far as they are known, and the search in progress."""

    def __init__(self, method: SearchMethod, problem: Problem, rng: np.random.Generator, limit: Limit) -> None:
        self.method, self.problem, self.rng = method, problem, rng
        self.counts = allowed_counts(problem.budget)
        each = [None] if method.traces_curve else [g for g in self.counts if 1 < g < problem.num_heads]
        self.plan = [_Step(layer, groups) for layer in range(problem.num_layers) for groups in each]
        self.limit = limit.share(max(1, len(self.plan)))
        # Best known partition of every layer for every number of groups.
        self.curves: list[dict[int, Candidate]] = []
        self.seeds: list[int] = []
        self.index = self.step = self.evaluations = self.inner_evaluations = 0
        self.inner: tuple[dict[str, Any], int] | None = None

    def start(self) -> None:
        """Neighbours everywhere; draw the steps' seeds."""
        self.seeds = self.rng.integers(2**63, size=len(self.plan)).tolist()
        neighbours = [Grouping((LayerGrouping.neighbours(self.problem.num_heads, g),)) for g in self.counts]
        for layer in range(self.problem.num_layers):
            known = self.problem.layer_problem(layer).evaluate(neighbours)
            self.curves.append({found.grouping.kv_heads_total: found for found in known})
            for count in {1, self.problem.num_heads} & self.curves[layer].keys():  # one partition, the best
                only = self.curves[layer][count]
                self.curves[layer][count] = replace(only, lower_bounds=only.values)
            self.evaluations += len(known)

    def search_step(self) -> Iterator[Generation]:
        """Generations of the search in progress that were not yielded before; keeps what they find."""
        step = self.plan[self.step]
        problem = self.problem.layer_problem(step.layer, free_counts=step.groups is None)
        if step.groups is not None:
            problem = replace(problem, budget=replace(problem.budget, counts=(step.groups,)))
        state, index = self.inner or (None, None)
        rng = np.random.default_rng(self.seeds[self.step])
        for inner in self.limit.search(self.method, problem, rng, state):
            # A search that had ended gives its last generation again.
            if inner.index != index:
                self._keep(step.layer, inner)
                self.inner_evaluations = inner.evaluations
                yield inner

    def next_step(self) -> None:
        self.evaluations += self.inner_evaluations
        self.inner_evaluations = 0
        self.step += 1
        self.inner = None

    def _keep(self, layer: int, inner: Generation) -> None:
        for found in inner.front:
            count = found.grouping.kv_heads_total
            if count not in self.counts:
                continue  # a method that traces a curve may need what lies between
            known = self.curves[layer].get(count)
            if known is None or (found.values[0] <= known.values[0] and not known.lower_bounds):
                self.curves[layer][count] = Candidate(found.grouping, found.values[:1], found.lower_bounds)

    def generation(self, inner: Generation | None, *, whole_front: bool = False) -> Generation:
        """The whole model's generation; ``inner``: of the search in progress, None when there is none."""
        split = split_budget(self._errors())
        best = self._candidate(split, split.best_total(self.problem.budget.total))
        front = self._front(split) if whole_front else (best,)
        curves = [list(curve.values()) for curve in self.curves]
        frozen = {
            "method": self.method.name,
            "generation": self.index,
            "evaluations": self.evaluations,
            "inner_evaluations": self.inner_evaluations,
            "rng": save_rng(self.rng),
            "seeds": self.seeds,
            "step": self.step,
        }

        def state() -> dict[str, Any]:
            under_way = None if inner is None else {"generation": inner.index, "state": inner.state()}
            known = [[save_candidate(candidate) for candidate in curve] for curve in curves]
            return {**frozen, "curves": known, "inner": under_way}

        return Generation(self.index, self.evaluations + self.inner_evaluations, best, front, state)

    def load(self, state: dict[str, Any]) -> None:
        """Stand where ``state`` was taken."""
        require_method(state, self.method.name)
        self.seeds, self.step, self.index = state["seeds"], state["step"], state["generation"]
        self.evaluations, self.inner_evaluations = state["evaluations"], state["inner_evaluations"]
        candidates = [[load_candidate(saved) for saved in curve] for curve in state["curves"]]
        self.curves = [{c.grouping.kv_heads_total: c for c in curve} for curve in candidates]
        if state["inner"] is not None:
            self.inner = state["inner"]["state"], state["inner"]["generation"]
        restore_rng(self.rng, state["rng"])

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
