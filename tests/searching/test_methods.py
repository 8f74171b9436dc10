"""Methods by name, and the baselines."""

from __future__ import annotations

import numpy as np
import pytest

from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching import available_methods, make_method
from tests.searching.problems import Pairwise, SetFunction, one_layer, partitions_within


def test_every_method_names_itself_and_its_source() -> None:
    methods = available_methods()
    assert {"evolution", "neighbour", "random"} <= set(methods)
    for name, method in methods.items():
        assert method.name == name and method.reference.startswith("https://") and method.summary


def test_parameters_are_those_of_the_dataclass() -> None:
    method = make_method("evolution", {"population": "12", "crossover_rate": 0.5})
    assert method.parameters()["population"] == 12
    assert make_method("evolution", method.parameters()) == method


def test_misspelt_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'evolution'"):
        make_method("evolutoin")
    with pytest.raises(UserError, match="did you mean 'population'"):
        make_method("evolution", {"popluation": 3})
    with pytest.raises(UserError, match="samples"):
        make_method("random", {"samples": 0})


def test_neighbour_is_one_evaluation() -> None:
    objective = SetFunction(6, 0)
    (only,) = make_method("neighbour").search(one_layer(objective, 6, 4), np.random.default_rng(0))
    assert len(objective.asked) == only.evaluations == 1
    assert only.best.grouping == Grouping((LayerGrouping.neighbours(6, 4),))


def test_random_keeps_the_best_it_drew() -> None:
    objective = Pairwise(10, 0)
    method = make_method("random", {"samples": 50, "batch": 20})
    generations = list(method.search(one_layer(objective, 10, 3), np.random.default_rng(0)))
    assert [generation.index for generation in generations] == [0, 1, 2]
    best = min(objective.of(grouping.layers[0]) for grouping in objective.asked)
    assert generations[-1].best.values == (best,)
    assert len(objective.asked) == len(set(objective.asked)) == generations[-1].evaluations <= 50


def test_random_sees_all_of_a_small_space() -> None:
    objective = SetFunction(5, 0)
    problem = one_layer(objective, 5, 2)
    generations = list(make_method("random", {"samples": 400}).search(problem, np.random.default_rng(0)))
    optimum = min(map(objective.of, partitions_within(problem.budget, 2)))
    assert generations[-1].best.values == (optimum,) and generations[-1].evaluations == 15
