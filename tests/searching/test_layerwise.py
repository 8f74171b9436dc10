"""Separable problems are searched layer by layer; the parts add up."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.grouping import LayerGrouping
from gqasearch.searching import Problem, available_methods, make_method, most_generations
from gqasearch.searching.runner import run_search
from tests.searching.killable import PARAMETERS, problem_for
from tests.searching.problems import CountedErrors, SetFunction, kv_heads, partitions_within, separable


def test_every_layer_reaches_its_optimum_and_values_add_up() -> None:
    problem, functions = separable(3, 6, (3, 2, 4), 0)
    last = list(run_search(make_method("evolution"), problem, np.random.default_rng(0)))[-1]
    for function, layer, count in zip(functions, last.best.grouping, problem.budget.counts, strict=True):
        assert function.of(layer) == min(map(function.of, partitions_within(problem.budget, count)))
    assert last.best.values == (problem.objectives["error"]([last.best.grouping])[0],)


def test_layers_not_yet_searched_count_with_their_neighbours() -> None:
    problem, _ = separable(3, 6, (3, 2, 4), 0)
    generations = list(run_search(make_method("evolution"), problem, np.random.default_rng(0)))
    neighbours = [LayerGrouping.neighbours(6, count) for count in problem.budget.counts]
    assert list(generations[0].best.grouping) == neighbours
    assert list(generations[1].best.grouping)[1:] == neighbours[1:]
    values = [generation.best.values[0] for generation in generations]
    assert values == sorted(values, reverse=True)
    assert [generation.index for generation in generations] == list(range(len(generations)))
    for generation in generations:
        assert generation.best.values == (problem.objectives["error"]([generation.best.grouping])[0],)


def test_a_layers_search_evaluates_nothing_twice() -> None:
    """Its neighbours were asked for once before, when the search began."""
    problem, functions = separable(3, 6, (3, 1, 4), 0)
    last = list(run_search(make_method("random"), problem, np.random.default_rng(0)))[-1]
    searched = [function.asked[1:] for function in functions]
    assert [len(layer) for layer in searched] == [len(set(layer)) for layer in searched]
    assert sum(map(len, searched)) + 3 == last.evaluations
    assert not searched[1]


def test_a_layer_does_not_depend_on_what_another_drew() -> None:
    def last_layer(first: int) -> LayerGrouping:
        functions = (SetFunction(12, first), SetFunction(12, 7))
        problem = Problem({"error": kv_heads}, Budget((4, 4), 12), layer_errors=tuple(map(CountedErrors, functions)))
        method = make_method("evolution", {"generations": 2, "local_steps": 0})
        return list(run_search(method, problem, np.random.default_rng(0)))[-1].best.grouping.layers[1]

    assert last_layer(1) == last_layer(2)


def test_every_layer_has_a_generator_of_its_own() -> None:
    functions = (SetFunction(12, 0), SetFunction(12, 0))
    problem = Problem({"error": kv_heads}, Budget((4, 4), 12), layer_errors=tuple(map(CountedErrors, functions)))
    list(run_search(make_method("random", {"samples": 5}), problem, np.random.default_rng(0)))
    assert functions[0].asked[1:] != functions[1].asked[1:]


@pytest.mark.parametrize("counts", [(6, 6), (1, 1), (1, 6)])
def test_layers_without_a_choice_are_answered_at_once(counts: tuple[int, ...]) -> None:
    problem, _ = separable(2, 6, counts, 0)
    for method in ("evolution", "random", "tpe"):
        (only,) = run_search(make_method(method), problem, np.random.default_rng(0))
        assert only.best.grouping.group_counts == counts and only.evaluations == 2


def test_neighbour_is_one_evaluation_of_the_whole_model() -> None:
    problem, _ = separable(3, 6, (3, 2, 4), 0)
    (only,) = run_search(make_method("neighbour"), problem, np.random.default_rng(0))
    assert only.evaluations == 1
    assert list(only.best.grouping) == [LayerGrouping.neighbours(6, count) for count in (3, 2, 4)]


@pytest.mark.parametrize("method", available_methods())
def test_no_method_yields_more_generations_than_it_says(method: str) -> None:
    problem, chosen = problem_for(method), make_method(method, PARAMETERS.get(method, {}))
    most = most_generations(chosen, problem)
    generations = list(run_search(chosen, problem, np.random.default_rng(0)))
    assert most is not None and len(generations) <= most
    if method not in ("evolution", "asymgqa"):  # which may end early
        assert len(generations) == most


def test_what_layers_spared_counts_as_done() -> None:
    """What is left is then as long as the layers that are left."""
    problem, _ = separable(3, 6, (3, 1, 4), 0)
    method = make_method("evolution")
    generations = list(run_search(method, problem, np.random.default_rng(0)))
    steps = [generation.index + 1 + generation.spared for generation in generations]
    of_layer = method.most_generations(problem.layer_problem(0))
    # Of the third layer, as the second has no choice.
    (begun,) = (step for before, step in pairwise(steps) if step > before + 1)
    assert begun == 1 + 2 * of_layer + 1 and steps[0] == 1
    assert steps[-1] <= most_generations(method, problem)


def test_several_objectives_need_a_method_that_takes_them() -> None:
    problem = Problem({"error": SetFunction(5, 0), "kv": kv_heads}, Budget((2,), 5))
    with pytest.raises(UserError, match="random takes one objective, got error, kv"):
        run_search(make_method("random"), problem, np.random.default_rng(0))
