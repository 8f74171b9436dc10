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


def run(method: Any, problem: Problem, limit: Limit, state: dict[str, Any] | None = None) -> list[Generation]:
    return list(run_search(method, problem, np.random.default_rng(0), state, limit))


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
def test_a_limited_search_goes_on_from_every_state(method: str, nightly: bool) -> None:
    problem = problem_for(method)
    made = make_method(method, PARAMETERS.get(method, {}))
    limit = Limit(evaluations=40)
    found = run(made, problem, limit)
    for index, generation in list(enumerate(found))[:: 1 if nightly else 4]:
        rest = run(make_method(method, PARAMETERS.get(method, {})), problem, limit, generation.state())
        # The last one is given again, as by a search that ended by itself; so may others where a part had ended.
        assert [told(one)[1:] for one in rest][-1] == told(found[-1])[1:], index
        assert len(rest) <= max(1, len(found) - index)


def test_a_search_that_a_limit_ended_is_not_gone_on_with() -> None:
    problem = entangled()
    found = run(make_method("evolution"), problem, Limit(evaluations=100))
    again = run(make_method("evolution"), problem, Limit(evaluations=10_000), found[-1].state())
    assert [told(one) for one in again] == [told(found[-1])]


def test_shares_add_up_to_no_more_than_the_whole() -> None:
    assert Limit(100, 6.0).share(3) == Limit(33, 2.0)
    assert Limit(2).share(5) == Limit(1)
    assert Limit().share(4) == Limit()
    assert all(a > b for a, b in pairwise(Limit(90).share(n).evaluations or 0 for n in (1, 2, 3)))
