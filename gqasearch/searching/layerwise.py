"""Search layer by layer, for an objective that is a sum over layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gqasearch.grouping import Grouping
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.limit import NO_LIMIT, Limit
from gqasearch.searching.problem import Candidate, Generation, Problem
from gqasearch.searching.starts import neighbour_grouping


def search_layers(
    method: SearchMethod,
    problem: Problem,
    rng: np.random.Generator,
    limit: Limit = NO_LIMIT,
) -> Iterator[Generation]:
    """Run ``method`` on every layer of a separable problem, one after the other.

    Yields whole-model generations: the best of every layer searched, the neighbour grouping of the others;
    generation 0 has neighbours everywhere. A layer with one group, or one for every head, needs no search.
    Every layer has its own generator, seeded from ``rng``: what one layer draws changes nothing in another.
    """
    run = _Layers(method, problem, rng, limit)
    problem.clock.tick()
    yield run.generation()
    for layer in range(problem.num_layers):
        for inner in run.search_layer(layer):
            yield run.generation(inner)
        run.end_layer()


class _Layers:
    """Results of the layers done, of the layer in progress, and the neighbours of the rest."""

    def __init__(self, method: SearchMethod, problem: Problem, rng: np.random.Generator, limit: Limit) -> None:
        self.method, self.problem = method, problem
        self.limit = limit.share(max(1, sum(map(self._has_choice, range(problem.num_layers)))))
        self.seeds = rng.integers(2**63, size=problem.num_layers).tolist()
        # Answer of every layer so far, (L,).
        self.results: list[Candidate] = []
        for index, layer in enumerate(neighbour_grouping(problem)):
            (found,) = problem.layer_problem(index).evaluate([Grouping((layer,))])
            self.results.append(found if self._has_choice(index) else replace(found, lower_bounds=found.values))
        # ``evaluations``: before the layer in progress.
        self.index, self.evaluations, self.inner_evaluations = -1, problem.num_layers, 0

    def search_layer(self, layer: int) -> Iterator[Generation]:
        """The generations of one layer; keeps its answer."""
        if not self._has_choice(layer):
            return
        problem = self.problem.layer_problem(layer)
        for inner in self.limit.search(self.method, problem, np.random.default_rng(self.seeds[layer])):
            self.results[layer] = inner.best
            yield inner

    def _has_choice(self, layer: int) -> bool:
        """Whether there is more than one partition into this layer's number of groups."""
        return 1 < self.problem.budget.counts[layer] < self.problem.num_heads

    def end_layer(self) -> None:
        self.evaluations += self.inner_evaluations
        self.inner_evaluations = 0

    def generation(self, inner: Generation | None = None) -> Generation:
        """The whole model's generation; ``inner``: the layer in progress's, None when there is none."""
        self.index += 1
        self.inner_evaluations = 0 if inner is None else inner.evaluations
        bounds = tuple(bound for result in self.results for bound in result.lower_bounds)
        best = Candidate(
            Grouping(tuple(result.grouping.layers[0] for result in self.results)),
            (sum(result.values[0] for result in self.results),),
            bounds if len(bounds) == len(self.results) else (),
        )
        return Generation(self.index, self.evaluations + self.inner_evaluations, best, (best,))
