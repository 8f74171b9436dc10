"""Budgets over layers: the exact split, and searches that share a budget."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.searching import GroupErrors, PairwiseErrors, Problem, SetErrors, make_method
from gqasearch.searching.allocation import split_budget
from gqasearch.searching.problem import kv_heads
from gqasearch.searching.runner import run_search
from tests.searching.problems import Pairwise, SetFunction, one_by_one, partitions_within, seeds


@given(layers=st.integers(1, 4), heads=st.integers(1, 5), seed=seeds, holes=st.floats(0, 0.5))
def test_the_split_is_the_best_of_all(layers: int, heads: int, seed: int, holes: float) -> None:
    rng = np.random.default_rng(seed)
    curves = np.where(rng.random((layers, heads)) < holes, np.inf, rng.random((layers, heads)))
    split = split_budget(curves)
    best = np.full(layers * heads + 1, np.inf)
    for counts in product(range(1, heads + 1), repeat=layers):
        error = sum(curves[layer, count - 1] for layer, count in enumerate(counts))
        best[sum(counts)] = min(best[sum(counts)], error)
    np.testing.assert_allclose(split.errors, best, rtol=1e-12)
    for total in np.flatnonzero(np.isfinite(best)).tolist():
        counts = split.counts(total)
        assert sum(counts) == total
        error = sum(curves[layer, count - 1] for layer, count in enumerate(counts))
        assert error == pytest.approx(best[total], rel=1e-12)


def test_totals_that_cannot_be_are_refused() -> None:
    split = split_budget(np.array([[np.inf, 1.0], [np.inf, 1.0]]))
    assert split.counts(4) == (2, 2) and split.best_total(9) == 4
    for total in (-1, 3, 9):
        with pytest.raises(UserError, match=f"no split of {total} groups"):
            split.counts(total)
    with pytest.raises(UserError, match="at most 3 groups"):
        split.best_total(3)


def test_among_equal_errors_the_smaller_total_wins() -> None:
    assert split_budget(np.array([[1.0, 0.0, 0.0]])).best_total(3) == 2


def shared(kind: str, budget: Budget, *, free: bool = False) -> Problem:
    """Three layers of six heads that share a budget."""
    functions = [(Pairwise if kind == "pairwise" else SetFunction)(6, seed) for seed in range(3)]
    errors: tuple[GroupErrors, ...] = tuple(
        PairwiseErrors(f.distances) if isinstance(f, Pairwise) else SetErrors(6, one_by_one(f.error)) for f in functions
    )

    def total(groupings: object) -> np.ndarray:
        return np.array([sum(f.of(la) for f, la in zip(functions, g, strict=True)) for g in groupings])  # type: ignore[attr-defined]

    objectives = {"error": total, "kv": kv_heads} if free else {"error": total}
    return Problem(objectives, budget, free, errors)


def best_by_total(problem: Problem) -> dict[int, float]:
    """Brute force over all groupings, layer by layer."""
    curves = np.full((3, 6), np.inf)
    assert problem.layer_errors is not None
    for layer, errors in enumerate(problem.layer_errors):
        for count in range(problem.budget.count_step, 7, problem.budget.count_step):
            fitting = [Grouping((la,)) for la in partitions_within(problem.budget, count)]
            if fitting:
                curves[layer, count - 1] = errors.objective(fitting).min()
    split = split_budget(curves)
    return {total: float(error) for total, error in enumerate(split.errors) if np.isfinite(error)}


@pytest.mark.parametrize("kind", ["pairwise", "set"])
@pytest.mark.parametrize("method", ["evolution", "exact"])
@pytest.mark.parametrize(("counts", "step"), [((3, 3, 3), 1), ((4, 4, 2), 2), ((3, 3, 3), 3)])
def test_a_movable_budget_reaches_the_optimum(kind: str, method: str, counts: tuple[int, ...], step: int) -> None:
    problem = shared(kind, Budget(counts, 6, movable=True, largest_group=4, count_step=step))
    *_, last = run_search(make_method(method), problem, np.random.default_rng(0))
    best = best_by_total(problem)
    assert last.best.grouping.kv_heads_total <= sum(counts)
    assert all(count % step == 0 for count in last.best.grouping.group_counts)
    assert last.best.values[0] == pytest.approx(min(e for t, e in best.items() if t <= sum(counts)), rel=1e-9)
    assert problem.evaluate([last.best.grouping])[0].values == pytest.approx(last.best.values, rel=1e-12)


@pytest.mark.parametrize("step", [1, 3])
@settings(max_examples=3, deadline=None)
@given(seed=seeds)
def test_a_front_holds_the_best_of_every_total(step: int, seed: int) -> None:
    problem = shared("pairwise", Budget((3, 3, 3), 6, count_step=step), free=True)
    *_, last = run_search(make_method("evolution"), problem, np.random.default_rng(seed))
    best = best_by_total(problem)
    assert [candidate.values[1] for candidate in last.front] == list(best)
    assert [candidate.values[0] for candidate in last.front] == pytest.approx(list(best.values()), rel=1e-9, abs=1e-12)
    for candidate in last.front:
        assert problem.evaluate([candidate.grouping])[0].values == pytest.approx(candidate.values, rel=1e-9, abs=1e-12)
    assert last.best.grouping.kv_heads_total <= 9


def test_curves_are_traced_for_every_number_of_groups() -> None:
    errors = PairwiseErrors(Pairwise(9, 0).distances)
    whole = Problem({"error": errors.objective}, Budget((3,), 9, largest_group=5), layer_errors=(errors,))
    *_, last = make_method("evolution").search(whole.layer_problem(0, free_counts=True), np.random.default_rng(0))
    found = {candidate.grouping.kv_heads_total: candidate.values[0] for candidate in last.front}
    assert sorted(found) == list(range(2, 10))
    for count, error in found.items():
        fitting = [Grouping((layer,)) for layer in partitions_within(whole.budget, count)]
        assert error == pytest.approx(errors.objective(fitting).min(), rel=1e-9, abs=1e-12)
