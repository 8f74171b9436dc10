"""A search that was stopped goes on with the same bits, at every generation, for every method."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.searching import Generation, Objective, PairwiseErrors, Problem, SearchMethod, make_method
from gqasearch.searching.problem import FloatArray
from gqasearch.searching.runner import run_search
from tests.matrix import thinned
from tests.searching.problems import Entangled, Pairwise, SetFunction, kv_heads, one_layer, separable

SMALL = {"population": 6, "offspring": 5, "generations": 6, "local_individuals": 2, "local_steps": 2}
Bits = tuple[Any, ...]


def bits(generation: Generation) -> Bits:
    values = [[value.hex() for value in candidate.values] for candidate in generation.front]
    groupings = [candidate.grouping for candidate in generation.front]
    return generation.index, generation.evaluations, generation.best, values, groupings


def pairwise_layers(movable: bool) -> Problem:
    """A sum over layers of sums over pairs."""
    layers = [Pairwise(5, seed) for seed in range(2)]

    def total(groupings: Sequence[Grouping]) -> FloatArray:
        return np.array([sum(f.of(layer) for f, layer in zip(layers, g, strict=True)) for g in groupings])

    errors = tuple(PairwiseErrors(layer.distances) for layer in layers)
    return Problem({"error": total}, Budget((2, 3), 5, movable=movable), layer_errors=errors)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "one layer": lambda: one_layer(Pairwise(9, 0), 9, 4),
    "layer by layer": lambda: separable(4, 6, (3, 1, 2, 6), 0)[0],
    "pairwise, layer by layer": lambda: pairwise_layers(movable=False),
    "pairwise, movable": lambda: pairwise_layers(movable=True),
    "movable": lambda: Problem({"error": Entangled(3, 5, 0)}, Budget((2, 3, 2), 5, movable=True)),
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "evolution": ("evolution", SMALL),
    "exhausted": ("evolution", {}),
    "limited": ("evolution", {**SMALL, "max_evaluations": 40}),
    "random": ("random", {"samples": 23, "batch": 5}),
    "neighbour": ("neighbour", {}),
    "tpe": ("tpe", {"trials": 12, "batch": 5}),
    "cma-es": ("cma-es", {"trials": 25, "batch": 10}),
    "deap-stock": ("deap-stock", {"population": 8, "generations": 3}),
    "norm-sort": ("norm-sort", {}),
    "agglomerative": ("agglomerative", {}),
    "k-means": ("k-means", {"restarts": 110}),
    "hill-climb": ("hill-climb", {"restarts": 3, "swaps": 600, "moves": True}),
    "annealing": ("annealing", {"chains": 2, "steps": 600}),
}


def check_every_cut(method: SearchMethod, make_problem: Callable[[], Problem]) -> None:
    """Resuming after each generation gives the later generations; after the last, the last."""
    whole, states = [], []
    rng = np.random.default_rng(3)
    for generation in run_search(method, make_problem(), rng):
        whole.append(bits(generation))
        states.append(json.loads(json.dumps(generation.state(), allow_nan=False)))
    end = rng.bit_generator.state
    for cut, state in enumerate(states):
        other = np.random.default_rng(99)
        rest = [bits(generation) for generation in run_search(method, make_problem(), other, state)]
        assert rest == (whole[cut + 1 :] or whole[-1:])
        if method.name != "neighbour":
            assert other.bit_generator.state == end


def with_norms(problem: Problem) -> Problem:
    norms = np.random.default_rng(0).random((problem.num_layers, problem.num_heads))
    return replace(problem, norms=norms)


@pytest.mark.parametrize(("method", "problem"), thinned(METHODS, PROBLEMS))
def test_resumed_search_equals_the_uninterrupted_one(method: str, problem: str) -> None:
    name, parameters = METHODS[method]
    made = make_method(name, parameters)
    if not made.whole_model and PROBLEMS[problem]().layer_errors is None:
        with pytest.raises(UserError, match=f"{name} needs one fitness that is a sum over groups"):
            run_search(made, PROBLEMS[problem](), np.random.default_rng(0))
    else:
        check_every_cut(made, lambda: with_norms(PROBLEMS[problem]()))


def test_resumed_front_search_equals_the_uninterrupted_one() -> None:
    def problem() -> Problem:
        objectives: dict[str, Objective] = {"error": Entangled(2, 5, 0), "kv": kv_heads}
        return Problem(objectives, Budget((2, 3), 5), free_counts=True)

    check_every_cut(make_method("evolution", {**SMALL, "generations": 10}), problem)


@pytest.mark.parametrize("method", ["evolution", "exact"])
def test_resumed_front_of_a_sum_equals_the_uninterrupted_one(method: str) -> None:
    """Curves of all layers, then the whole front in a last generation of its own."""

    def problem() -> Problem:
        errors = tuple(PairwiseErrors(Pairwise(5, seed).distances) for seed in range(2))
        objectives: dict[str, Objective] = {"error": Entangled(2, 5, 0), "kv": kv_heads}
        return Problem(objectives, Budget((2, 3), 5), free_counts=True, layer_errors=errors)

    check_every_cut(make_method(method), problem)


def test_a_state_asked_for_late_is_the_same() -> None:
    method = make_method("evolution", SMALL)
    generations, early = [], []
    for generation in run_search(method, separable(3, 6, (2, 3, 2), 0)[0], np.random.default_rng(0)):
        generations.append(generation)
        early.append(json.dumps(generation.state()))
    assert [json.dumps(generation.state()) for generation in generations] == early


def test_evaluations_made_before_the_stop_are_not_made_again() -> None:
    before, after = Pairwise(9, 0), Pairwise(9, 0)
    method = make_method("evolution", SMALL)
    search = run_search(method, one_layer(before, 9, 4), np.random.default_rng(0))
    generation = [next(search) for _ in range(3)][-1]
    (*_, last) = run_search(method, one_layer(after, 9, 4), np.random.default_rng(0), generation.state())
    assert not set(before.asked) & set(after.asked)
    assert len(before.asked) + len(after.asked) == last.evaluations


def test_values_keep_their_bits() -> None:
    def tiny(groupings: Any) -> Any:
        return np.array([float(np.nextafter(0.1, 1)) / (1 + max(g.layers[0].sizes)) - 1e-310 for g in groupings])

    first = next(iter(make_method("evolution").search(one_layer(tiny, 6, 2), np.random.default_rng(0))))
    state = json.loads(json.dumps(first.state()))
    second = next(iter(make_method("evolution").search(one_layer(tiny, 6, 2), np.random.default_rng(0), state)))
    assert second.best.values[0].hex() == first.best.values[0].hex()


def test_the_state_of_another_method_or_generator_is_refused() -> None:
    problem = one_layer(SetFunction(5, 0), 5, 2)
    state = next(iter(make_method("random").search(problem, np.random.default_rng(0)))).state()
    with pytest.raises(UserError, match="belongs to method 'random', not 'evolution'"):
        next(iter(make_method("evolution").search(problem, np.random.default_rng(0), state)))
    with pytest.raises(UserError, match="PCG64"):
        next(iter(make_method("random").search(problem, np.random.Generator(np.random.MT19937(0)), state)))


def test_generation_states_grow_only_with_the_search() -> None:
    """A state is text of bounded size: about 20 characters for every evaluation."""
    for before, after in pairwise(
        run_search(make_method("evolution"), one_layer(Pairwise(12, 0), 12, 6), np.random.default_rng(0))
    ):
        assert len(json.dumps(after.state())) < 5000 + 40 * after.evaluations
        assert after.evaluations >= before.evaluations
