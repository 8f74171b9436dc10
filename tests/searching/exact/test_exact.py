"""The exact method as a search: optima with bounds, at any time limit, for one count or all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.searching import GroupErrors, PairwiseErrors, Problem, SetErrors, make_method
from gqasearch.searching.exact import Prover, check_provable
from gqasearch.searching.runner import run_search
from tests.matrix import nightly
from tests.searching.problems import Pairwise, SetFunction, budgets, one_by_one, partitions_within, seeds


def problem_of(errors: GroupErrors, budget: Budget) -> Problem:
    return Problem({"error": errors.objective}, budget, layer_errors=(errors,))


@settings(max_examples=25, deadline=None)
@given(budget=budgets(max_heads=7), seed=seeds)
def test_finds_and_bounds_the_optimum(budget: Budget, seed: int) -> None:
    heads, count = budget.num_heads, budget.counts[0]
    for errors in (
        PairwiseErrors(Pairwise(heads, seed).distances),
        SetErrors(heads, one_by_one(SetFunction(heads, seed).error)),
    ):
        *_, last = run_search(make_method("exact"), problem_of(errors, budget), np.random.default_rng(0))
        optimum = errors.objective([Grouping((layer,)) for layer in partitions_within(budget, count)]).min()
        assert last.best.values[0] == pytest.approx(optimum, rel=1e-9, abs=1e-12)
        assert last.best.lower_bounds[0] <= last.best.values[0]
        assert last.best.lower_bounds[0] == pytest.approx(optimum, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("free", [False, nightly(True)])
def test_without_time_it_answers_what_evolution_finds(free: bool) -> None:
    errors = PairwiseErrors(Pairwise(20, 0).distances)
    problem = problem_of(errors, Budget((5,), 20, largest_group=8))
    if free:
        problem = problem.layer_problem(0, free_counts=True)
    *_, last = make_method("exact", {"time_limit": 0}).search(problem, np.random.default_rng(0))
    *_, proven = make_method("exact").search(problem, np.random.default_rng(0))
    for quick, sure in zip(last.front, proven.front, strict=True):
        assert quick.values[0] == pytest.approx(sure.values[0], rel=1e-3, abs=1e-9)
        assert quick.lower_bounds[0] <= sure.values[0] * (1 + 1e-12)


def test_set_functions_of_many_heads_are_refused_in_words() -> None:
    errors = SetErrors(17, one_by_one(float))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"17 heads: it is no sum over pairs .* at most 16"):
        check_provable(errors)
    check_provable(PairwiseErrors(np.zeros((17, 17))))
    with pytest.raises(UserError, match="time_limit must be at least 0"):
        make_method("exact", {"time_limit": -1})


def test_a_table_that_takes_too_long_gives_no_bound() -> None:
    errors = SetErrors(10, one_by_one(SetFunction(10, 0).error))
    certificate = Prover(errors, Budget((3,), 10), 0.0).certificate(3, np.random.default_rng(0))
    assert certificate.lower_bound == -np.inf and len(certificate.groups) == 3
    *_, last = run_search(
        make_method("exact", {"time_limit": 0}), problem_of(errors, Budget((3,), 10)), np.random.default_rng(0)
    )
    assert last.best.lower_bounds == ()
