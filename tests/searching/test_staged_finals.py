"""The last step of staged evolution: a few are measured as the result will be, and the best of them is the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.searching import Generation, Problem, make_method
from gqasearch.searching.problem import FloatArray
from gqasearch.searching.runner import run_search
from tests.searching.problems import Pairwise, partitions_within
from tests.searching.test_resume import check_every_cut
from tests.searching.text_problems import NoisyText, text_problem, weighted_sum

SMALL: dict[str, Any] = {"population": 3, "offspring": 8, "generations": 5, "first_tokens": 50, "reduction": 3}
IN_THE_END = (2.0, 1.0, 1.0)


class Final:
    """A final objective with other weights than the one that is searched; keeps what it is asked."""

    def __init__(self, functions: Sequence[Pairwise]) -> None:
        self.of = weighted_sum(functions, IN_THE_END)
        self.asked: list[Grouping] = []

    def __call__(self, groupings: Sequence[Grouping]) -> FloatArray:
        self.asked += groupings
        return np.asarray(self.of(groupings))


def functions_of(seed: int) -> list[Pairwise]:
    return [Pairwise(5, 10 * seed + layer) for layer in range(3)]


def problem_of(kind: str, seed: int = 0) -> tuple[Problem, NoisyText, Final]:
    budget = Budget((2, 3, 2), 5, movable=kind == "movable")
    functions = functions_of(seed)
    problem, text = text_problem(functions, (1.0, 4.0, 2.0), budget, free=kind == "free")
    final = Final(functions)
    return replace(problem, final=final), text, final


def run(problem: Problem, seed: int = 0, **parameters: Any) -> list[Generation]:
    method = make_method("staged", {**SMALL, **parameters})
    generations = list(run_search(method, problem, np.random.default_rng(seed)))
    assert len(generations) <= (method.most_generations(problem) or 0)
    return generations


def least_sum(budget: Budget, seed: int) -> float:
    """The lowest sum of the guide's errors within the budget, counted out."""
    curves = [[min(f.of(p) for p in partitions_within(budget, g)) for g in range(1, 6)] for f in functions_of(seed)]
    within = [counts for counts in product(range(1, 6), repeat=3) if sum(counts) == budget.total]
    if not budget.movable:
        within = [budget.counts]
    return min(sum(curve[g - 1] for curve, g in zip(curves, counts, strict=True)) for counts in within)


@pytest.mark.parametrize("kind", ["fixed", "movable"])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_the_finalists_is_the_result(kind: str, seed: int) -> None:
    problem, _, final = problem_of(kind, seed)
    *before, last = run(problem, seed)
    assert last.index == len(before) == SMALL["generations"] + 1
    assert last.best.final == min(final.of(final.asked)) == final.of([last.best.grouping])[0]
    assert last.front == (last.best,) and last.best.grouping in final.asked
    assert all(generation.best.final is None for generation in before)
    assert last.evaluations == before[-1].evaluations + len(final.asked)
    assert last.best.values == problem.evaluate([last.best.grouping])[0].values, "the searched objective is kept"


@pytest.mark.parametrize("kind", ["fixed", "movable"])
@pytest.mark.parametrize("finalists", [1, 3])
def test_finalists_are_the_best_survivors_and_the_split_by_the_guide(kind: str, finalists: int) -> None:
    problem, text, final = problem_of(kind, 1)
    run(problem, 1, finalists=finalists)
    by_guide = weighted_sum(functions_of(1), (1.0, 1.0, 1.0))
    assert min(by_guide(final.asked)) == pytest.approx(least_sum(problem.budget, 1))
    met = sorted(text.whole, key=lambda g: text.true([g])[0])
    assert set(met[:finalists]) <= set(final.asked)
    assert len(final.asked) == len(set(final.asked)) <= finalists + 1


def test_what_the_guide_chose_wins_where_the_search_was_misled() -> None:
    """The final objective is the guide's own sum: the exact split of it cannot be beaten, nor be lost."""
    for seed in range(4):
        problem, _, _ = problem_of("movable", seed)
        last = run(replace(problem, final=weighted_sum(functions_of(seed), (1.0, 1.0, 1.0))), seed)[-1]
        assert last.best.final == pytest.approx(least_sum(problem.budget, seed))


def test_no_finals_without_a_final_objective_nor_for_a_front_nor_where_none_are_wanted() -> None:
    for kind, changes, parameters in (
        ("movable", {"final": None}, {}),
        ("free", {}, {}),
        ("movable", {}, {"finalists": 0}),
    ):
        problem, _, final = problem_of(kind)
        last = run(replace(problem, **changes), **parameters)[-1]
        assert last.index <= SMALL["generations"] and last.best.final is None and not final.asked


@pytest.mark.parametrize("kind", ["fixed", "movable"])
def test_a_search_stopped_before_or_after_the_finals_goes_on_with_the_same_bits(kind: str) -> None:
    check_every_cut(make_method("staged", SMALL), lambda: problem_of(kind)[0])
    check_every_cut(make_method("staged", {**SMALL, "generations": 20, "patience": 3}), lambda: problem_of(kind)[0])


def test_finals_follow_where_time_ran_out() -> None:
    problem, _, final = problem_of("movable")
    first, last = run(problem, max_seconds=0)
    assert (first.index, last.index) == (0, 1) and final.asked


def test_a_final_value_that_is_no_number_is_refused() -> None:
    problem, _, _ = problem_of("movable")
    bad = replace(problem, final=lambda groupings: np.full(len(groupings), np.inf))
    with pytest.raises(UserError, match="objective 'final loss' gave inf for grouping"):
        run(bad)
    with pytest.raises(UserError, match="staged: finalists must be a number of at least 0, got -1"):
        make_method("staged", {"finalists": -1})
