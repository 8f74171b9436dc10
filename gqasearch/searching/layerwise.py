"""Search layer by layer, for an objective that is a sum over layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    layers = range(problem.num_layers)
    searched = [layer for layer in layers if 1 < problem.budget.counts[layer] < problem.num_heads]
    limit = limit.share(max(1, len(searched)))
    seeds = rng.integers(2**63, size=len(layers)).tolist()
    results: list[Candidate] = []
    for index, partition in enumerate(neighbour_grouping(problem)):
        (found,) = problem.layer_problem(index).evaluate([Grouping((partition,))])
        results.append(found if index in searched else replace(found, lower_bounds=found.values))
    evaluations, index, spared = len(layers), 0, 0
    problem.clock.tick()
    yield _whole(index, evaluations, results, spared)
    for layer in layers:
        own = problem.layer_problem(layer)
        most = method.most_generations(own) or 0
        first = index
        if layer in searched:
            for inner in limit.search(method, own, np.random.default_rng(seeds[layer])):
                results[layer] = inner.best
                index += 1
                yield _whole(index, evaluations + inner.evaluations, results, spared)
            evaluations += inner.evaluations
        spared += max(0, most - (index - first))


def _whole(index: int, evaluations: int, results: Sequence[Candidate], spared: int) -> Generation:
    """The whole model's generation; ``results``: the answer of every layer so far, (L,)."""
    bounds = tuple(bound for result in results for bound in result.lower_bounds)
    best = Candidate(
        Grouping(tuple(result.grouping.layers[0] for result in results)),
        (sum(result.values[0] for result in results),),
        bounds if len(bounds) == len(results) else (),
    )
    return Generation(index, evaluations, best, (best,), spared)
