"""Layer by layer: the problem of a separable model is that of its layers, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.search._base import SearchMethod
from gqasearch.search.problem import Candidate, Generation, Problem
from gqasearch.search.starts import neighbour_grouping
from gqasearch.search.state import load_candidate, save_candidate


@dataclass(frozen=True)
class _Done:
    """What the layers searched so far add up to."""

    layers: tuple[Candidate, ...] = ()
    evaluations: int = 0
    generations: int = 0

    def after(self, last: Generation) -> _Done:
        return _Done((*self.layers, last.best), self.evaluations + last.evaluations, self.generations + last.index + 1)


def search_layers(
    method: SearchMethod, problem: Problem, rng: np.random.Generator, state: dict[str, Any] | None = None
) -> Iterator[Generation]:
    """Run ``method`` on every layer; each generation is one of the whole model.

    Layers still to be searched count with their neighbour grouping. Every layer has its own generator,
    seeded by one draw from ``rng``. A layer with a single possible grouping is not searched.
    """
    if state is None:
        seeds = rng.integers(2**63, size=problem.num_layers).tolist()
        start = [problem.layer_problem(i).evaluate([_alone(la)])[0] for i, la in enumerate(neighbour_grouping(problem))]
        done, inner = _Done(), None
    else:
        seeds = state["seeds"]
        start = [load_candidate(saved) for saved in state["start"]]
        done = _Done(tuple(load_candidate(c) for c in state["layers"]), state["evaluations"], state["generations"])
        inner = state["inner"]
    shared = {"seeds": seeds, "start": [save_candidate(candidate) for candidate in start]}
    for layer in range(len(done.layers), problem.num_layers):
        last = None
        for last in _search_layer(method, problem, layer, start[layer], seeds[layer], inner):
            yield _whole(shared, done, start, last)
        if last is None:
            raise ValueError(f"method {method.name} yielded nothing for layer {layer}")
        done, inner = done.after(last), None


def _search_layer(
    method: SearchMethod, problem: Problem, layer: int, start: Candidate, seed: int, state: dict[str, Any] | None
) -> Iterator[Generation]:
    if problem.budget.counts[layer] in (1, problem.num_heads):
        return iter([Generation(0, 1, start, (start,), dict)])
    return method.search(problem.layer_problem(layer), np.random.default_rng(seed), state)


def _whole(shared: dict[str, Any], done: _Done, start: list[Candidate], last: Generation) -> Generation:
    """The whole model's generation while one layer is being searched."""
    layers = [*done.layers, last.best, *start[len(done.layers) + 1 :]]
    grouping = Grouping(tuple(candidate.grouping.layers[0] for candidate in layers))
    best = Candidate(grouping, (sum(candidate.values[0] for candidate in layers),))

    def state() -> dict[str, Any]:
        return {
            **shared,
            "layers": [save_candidate(candidate) for candidate in done.layers],
            "evaluations": done.evaluations,
            "generations": done.generations,
            "inner": last.state(),
        }

    evaluations = done.evaluations + last.evaluations
    return Generation(done.generations + last.index, evaluations, best, (best,), state)


def _alone(layer: LayerGrouping) -> Grouping:
    return Grouping((layer,))
