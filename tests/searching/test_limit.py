"""A general limit ends any search after the generation that reaches it, and layers share it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from gqasearch.budget import Budget
from gqasearch.searching import Generation, Limit, Problem, available_methods, make_method
from gqasearch.searching.runner import run_search
from tests.searching.killable import PARAMETERS, problem_for
from tests.searching.problems import Entangled, separable


def run(method: Any, problem: Problem, limit: Limit) -> list[Generation]:
    return list(run_search(method, problem, np.random.default_rng(0), limit))


def entangled() -> Problem:
    return Problem({"error": Entangled(2, 7, 0)}, Budget((3, 3), 7))


def told(generation: Generation) -> tuple[Any, ...]:
    return generation.index, generation.evaluations, generation.best, generation.front


def test_no_generation_begins_once_the_evaluations_are_made() -> None:
    found = run(make_method("evolution"), entangled(), Limit(evaluations=100))
    assert found[-1].evaluations >= 100 > found[-2].evaluations
    whole = run(make_method("evolution"), entangled(), Limit())
    assert [told(one) for one in found] == [told(one) for one in whole[: len(found)]]


def test_seconds_end_a_search_too() -> None:
    assert len(run(make_method("evolution"), entangled(), Limit(seconds=0.0))) == 1
    assert len(run(make_method("evolution"), entangled(), Limit(seconds=1e9))) > 1


def test_every_layer_is_searched_under_an_equal_share() -> None:
    """A limit on the sum alone would leave the last layers as neighbours."""
    problem, _ = separable(3, 8, (3, 1, 4), 0)
    found = run(make_method("evolution"), problem, Limit(evaluations=120))
    steps = np.diff([one.evaluations for one in found])
    free = run(make_method("evolution"), problem, Limit())
    assert found[-1].evaluations < free[-1].evaluations
    changed = [one.best.grouping.layers for one in found]
    assert changed[0][0] != changed[-1][0] and changed[0][2] != changed[-1][2]
    assert steps.min() >= 0


@pytest.mark.parametrize("method", sorted(available_methods()))
def test_every_method_is_ended(method: str) -> None:
    """By its evaluations, or by itself before."""
    made, problem = make_method(method, PARAMETERS.get(method, {})), problem_for(method)
    found, whole = run(made, problem, Limit(evaluations=40)), run(made, problem, Limit())
    assert len(found) <= len(whole) and found[-1].evaluations <= whole[-1].evaluations
    if len(found) < len(whole) and not problem.is_separable:
        assert [told(one) for one in found] == [told(one) for one in whole[: len(found)]]


def test_shares_add_up_to_no_more_than_the_whole() -> None:
    assert Limit(100, 6.0).share(3) == Limit(33, 2.0)
    assert Limit(2).share(5) == Limit(1)
    assert Limit().share(4) == Limit()
    assert all(a > b for a, b in pairwise(Limit(90).share(n).evaluations or 0 for n in (1, 2, 3)))
