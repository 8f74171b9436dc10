"""Search layer by layer, for an objective that is a sum over layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from gqasearch.grouping import Grouping
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.limit import NO_LIMIT, Limit
from gqasearch.searching.problem import Candidate, Generation, Problem
from gqasearch.searching.starts import neighbour_grouping
from gqasearch.searching.state import load_candidate, require_method, restore_rng, save_candidate, save_rng


def search_layers(
    method: SearchMethod,
    problem: Problem,
    rng: np.random.Generator,
    state: dict[str, Any] | None = None,
    limit: Limit = NO_LIMIT,
) -> Iterator[Generation]:
    """Run ``method`` on every layer of a separable problem, one after the other.

    Yields whole-model generations: the best of every layer searched, the neighbour grouping of the others;
    generation 0 has neighbours everywhere. A layer with one group, or one for every head, needs no search.
    Every layer has its own generator, seeded from ``rng``: what one layer draws changes nothing in another.
    """
    run = _Layers(method, problem, rng, limit)
    if state is None:
        run.start()
        yield run.generation(None)
    else:
        run.load(state)
    yielded = state is None
    while run.layer < problem.num_layers:
        for inner in run.search_layer():
            yielded = True
            run.index += 1
            yield run.generation(inner)
        run.next_layer()
    if not yielded:
        yield run.generation(None)


class _Layers:
    """Results of the layers done, the layer in progress, the neighbours of the rest."""

    def __init__(self, method: SearchMethod, problem: Problem, rng: np.random.Generator, limit: Limit) -> None:
        self.method, self.problem, self.rng = method, problem, rng
        self.limit = limit.share(max(1, sum(map(self._has_choice, range(problem.num_layers)))))
        # Answer of every layer so far, (L,), and its neighbour grouping, (L,).
        self.results: list[Candidate] = []
        self.neighbours: list[Candidate] = []
        self.seeds: list[int] = []
        # ``evaluations``: before the layer in progress.
        self.index = self.layer = self.evaluations = self.inner_evaluations = 0
        # State and index of the last generation of the layer in progress.
        self.inner: tuple[dict[str, Any], int] | None = None

    def start(self) -> None:
        """Evaluate the neighbour grouping of every layer; draw the layers' seeds."""
        self.seeds = self.rng.integers(2**63, size=self.problem.num_layers).tolist()
        for index, layer in enumerate(neighbour_grouping(self.problem)):
            (found,) = self.problem.layer_problem(index).evaluate([Grouping((layer,))])
            self.neighbours.append(found if self._has_choice(index) else replace(found, lower_bounds=found.values))
        self.results = list(self.neighbours)
        self.evaluations = self.problem.num_layers

    def search_layer(self) -> Iterator[Generation]:
        """The generations of the layer in progress that were not yielded before; keeps its answer."""
        if not self._has_choice(self.layer):
            return
        problem = self.problem.layer_problem(self.layer)
        rng = np.random.default_rng(self.seeds[self.layer])
        state, index = self.inner or (None, None)
        for inner in self.limit.search(self.method, problem, rng, state):
            # A search that had ended gives its last generation again.
            if inner.index != index:
                self.results[self.layer] = inner.best
                self.inner_evaluations = inner.evaluations
                yield inner

    def _has_choice(self, layer: int) -> bool:
        """Whether there is more than one partition into this layer's number of groups."""
        return 1 < self.problem.budget.counts[layer] < self.problem.num_heads

    def next_layer(self) -> None:
        self.evaluations += self.inner_evaluations
        self.inner_evaluations = 0
        self.layer += 1
        self.inner = None

    def generation(self, inner: Generation | None) -> Generation:
        """The whole model's generation; ``inner``: the layer in progress's, None when there is none."""
        results = list(self.results)
        value = sum(result.values[0] for result in results)
        bounds = tuple(bound for result in results for bound in result.lower_bounds)
        best = Candidate(
            Grouping(tuple(result.grouping.layers[0] for result in results)),
            (value,),
            bounds if len(bounds) == len(results) else (),
        )
        frozen = {
            "method": self.method.name,
            "generation": self.index,
            "evaluations": self.evaluations,
            "inner_evaluations": self.inner_evaluations,
            "rng": save_rng(self.rng),
            "seeds": self.seeds,
            "layer": self.layer,
            "neighbours": [save_candidate(candidate) for candidate in self.neighbours],
        }

        def state() -> dict[str, Any]:
            done = [save_candidate(result) for result in results]
            under_way = None if inner is None else {"generation": inner.index, "state": inner.state()}
            return {**frozen, "results": done, "inner": under_way}

        evaluations = self.evaluations + self.inner_evaluations
        return Generation(index=self.index, evaluations=evaluations, best=best, front=(best,), state=state)

    def load(self, state: dict[str, Any]) -> None:
        """Stand where ``state`` was taken."""
        require_method(state, self.method.name)
        self.seeds, self.layer = state["seeds"], state["layer"]
        self.index, self.evaluations = state["generation"], state["evaluations"]
        self.inner_evaluations = state["inner_evaluations"]
        self.neighbours = [load_candidate(saved) for saved in state["neighbours"]]
        self.results = [load_candidate(saved) for saved in state["results"]]
        if state["inner"] is not None:
            self.inner = state["inner"]["state"], state["inner"]["generation"]
        restore_rng(self.rng, state["rng"])
