"""Curves from few groups: the model is what it says, the search keeps to its limit and comes near the full one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqasearch.budget import Budget
from gqasearch.grouping import LayerGrouping
from gqasearch.searching import Problem, SetErrors, make_method
from gqasearch.searching.evolution.asked import AskedErrors
from gqasearch.searching.evolution.draft import Draft
from gqasearch.searching.evolution.group_model import GroupModel
from gqasearch.searching.evolution.screened_descent import mask_of
from gqasearch.searching.operators import count_range
from gqasearch.searching.problem import FloatArray
from tests.searching.problems import Pairwise, budgets, one_by_one, partitions_within, seeds
from tests.searching.test_resume import check_every_cut

HEADS = 10


class Discarded:
    """Discarded eigenvalues of the Gram of random heads of two rows, as the optimal merge has; what it was asked."""

    def __init__(self, num_heads: int, seed: int) -> None:
        rows = np.random.default_rng(seed).normal(size=(num_heads, 2, 6))
        self.rows = rows * np.linspace(0.3, 2, num_heads)[:, None, None]
        self.asked: list[tuple[int, ...]] = []

    def error(self, heads: tuple[int, ...]) -> float:
        return float((np.linalg.svd(self.rows[list(heads)].reshape(-1, 6), compute_uv=False)[2:] ** 2).sum())

    def __call__(self, groups: Sequence[tuple[int, ...]]) -> list[float]:
        self.asked += groups
        return list(map(self.error, groups))


def pair_table(error: Discarded | Pairwise, num_heads: int) -> FloatArray:
    table = np.zeros((num_heads, num_heads))
    for pair in combinations(range(num_heads), 2):
        table[pair] = table[pair[::-1]] = error.error(pair)
    return table


def random_members(count: int, num_heads: int, seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    return (rng.random((count, num_heads)) < rng.uniform(0.1, 1, (count, 1))).astype(float)


def heads_of(member: FloatArray) -> tuple[int, ...]:
    return tuple(np.flatnonzero(member).tolist())


def fitted(seed: int, scale: float = 1.0) -> tuple[Discarded, GroupModel]:
    function = Discarded(HEADS, seed)
    members = random_members(150, HEADS, seed)
    errors = scale * np.array([function.error(heads_of(row)) if row.any() else 0.0 for row in members])
    model = GroupModel(scale * pair_table(function, HEADS))
    model.fit(members, errors)
    return function, model


def test_before_it_is_fitted_the_model_is_right_for_mean_merges() -> None:
    function = Pairwise(8, 0)
    members = random_members(60, 8, 1)
    expected = [function.error(heads_of(row)) if row.any() else 0.0 for row in members]
    np.testing.assert_allclose(GroupModel(pair_table(function, 8)).errors(members), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e20])
def test_the_model_learns_what_groups_cost(scale: float) -> None:
    function, model = fitted(0, scale)
    fresh = random_members(200, HEADS, 5)
    fresh = fresh[fresh.sum(1) > 2]
    exact = scale * np.array([function.error(heads_of(row)) for row in fresh])
    off = np.abs(np.log(model.errors(fresh) / exact))
    plain = np.abs(np.log(GroupModel(scale * pair_table(function, HEADS)).errors(fresh) / exact))
    assert np.median(off) < 0.05 < np.median(plain)


@given(seed=seeds, groups=st.integers(1, HEADS))
def test_neighbours_are_groups_with_a_head_more_or_less(seed: int, groups: int) -> None:
    labels = np.random.default_rng(seed).integers(groups, size=HEADS)
    labels = np.array(LayerGrouping.from_labels(labels.tolist()).labels)
    members = (labels == np.arange(labels.max() + 1)[:, None]).astype(float)
    _, model = fitted(3)
    without, joined, replaced = model.neighbours(members, labels)
    one = np.eye(HEADS)
    np.testing.assert_allclose(without, model.errors(members[labels] - one), rtol=1e-3, atol=1e-5)
    for head in range(HEADS):
        new = [group for group in range(len(members)) if group != labels[head]]
        np.testing.assert_allclose(joined[head, new], model.errors(members[new] + one[head]), rtol=1e-3, atol=1e-5)
        others = np.flatnonzero(labels != labels[head])
        after = members[labels[head]] - one[head] + one[others]
        np.testing.assert_allclose(replaced[head, others], model.errors(after), rtol=1e-3, atol=1e-5)


@given(budget=budgets(max_heads=9), seed=seeds)
def test_steps_do_what_they_say(budget: Budget, seed: int) -> None:
    """Every step is a swap or a move within bounds, its rise what the model says; known errors replace that."""
    function = Discarded(budget.num_heads, seed)
    model = GroupModel(pair_table(function, budget.num_heads))
    layer = partitions_within(budget, budget.counts[0])[-1]
    steps = Draft(layer, model, AskedErrors(SetErrors(budget.num_heads, function)), budget).best_steps(10**6)
    assert [step.rise for step in steps] == sorted(step.rise for step in steps)
    met = set()
    for step in steps:
        asked = AskedErrors(SetErrors(budget.num_heads, function))
        draft = Draft(layer, model, asked, budget)
        total, masks = draft.total, draft.masks_after(step)
        draft.take(step)
        assert draft.layer in partitions_within(budget, layer.num_groups) and draft.layer != layer
        assert draft.total - total == pytest.approx(step.rise, rel=1e-3, abs=1e-4 * total)
        assert set(masks) <= set(draft.masks) == {mask_of(group) for group in draft.layer.groups}
        asked.ask(draft.masks)
        known = Draft(draft.layer, model, asked, budget)
        assert known.total == pytest.approx(sum(map(function.error, draft.layer.groups)), rel=1e-12)
        met.add(draft.layer)
    near = [other for other in partitions_within(budget, layer.num_groups) if _is_near(layer, other)]
    assert met == set(near)


def _is_near(one: LayerGrouping, other: LayerGrouping) -> bool:
    """A move or a swap apart: two groups differ, by one head gone or by one replaced."""
    old, new = set(one.groups) - set(other.groups), set(other.groups) - set(one.groups)
    if len(old) != 2 or len(new) != 2:
        return False
    (a, b), (c, d) = map(list, (old, new))
    ways = [(set(a) ^ set(c), set(b) ^ set(d)), (set(a) ^ set(d), set(b) ^ set(c))]
    swapped = sorted(map(len, old)) == sorted(map(len, new))
    return any(x == y and (len(x) == 1 or (len(x) == 2 and swapped and _one_each(x, a, b))) for x, y in ways)


def _one_each(heads: set[int], one: tuple[int, ...], two: tuple[int, ...]) -> bool:
    return len(heads & set(one)) == 1 == len(heads & set(two))


def curve_problem(function: Discarded, budget: Budget) -> Problem:
    errors = SetErrors(budget.num_heads, function)
    whole = Problem({"error": errors.objective}, budget, layer_errors=(errors,))
    return whole.layer_problem(0, free_counts=True)


def curve(function: Discarded, budget: Budget, **parameters: object) -> dict[int, float]:
    *_, last = make_method("evolution", parameters).search(curve_problem(function, budget), np.random.default_rng(0))
    for found in last.front:
        layer = found.grouping.layers[0]
        assert found.values[0] == pytest.approx(sum(map(function.error, layer.groups)), rel=1e-9, abs=1e-12)
        assert all(budget.smallest_group <= size <= budget.largest for size in layer.sizes)
    return {found.grouping.kv_heads_total: found.values[0] for found in last.front}


@pytest.mark.parametrize("bounds", [{}, {"largest_group": 4}, {"smallest_group": 2}])
def test_few_groups_give_nearly_the_best_curve(bounds: dict[str, int]) -> None:
    budget = Budget((4,), HEADS, **bounds)
    few, full = Discarded(HEADS, 1), Discarded(HEADS, 1)
    found, best = curve(few, budget, max_groups=250), curve(full, budget)
    assert len(few.asked) == len(set(few.asked)) <= 250 < len(set(full.asked))
    assert sorted(found) == sorted(best)
    low, high = count_range(budget)
    assert {low, high} <= set(found)
    for count, error in found.items():
        assert error <= 1.02 * best[count] + 1e-12


def test_the_limit_ends_the_search_and_never_the_chain() -> None:
    function = Discarded(HEADS, 2)
    assert list(curve(function, Budget((4,), HEADS), max_groups=1)) == list(range(HEADS, 0, -1))
    assert 45 < len(function.asked) < 200


def test_what_others_asked_for_changes_nothing() -> None:
    budget, method = Budget((4,), HEADS), make_method("evolution", {"max_groups": 200})
    fresh, used = (curve_problem(Discarded(HEADS, 3), budget) for _ in range(2))
    assert used.layer_errors is not None
    used.layer_errors[0].group_errors([(0, 1, 2), (3, 4, 5, 6), (0, 9)])
    ends = [[g.front for g in method.search(problem, np.random.default_rng(1))] for problem in (fresh, used)]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("parameters", [{"max_groups": 120}, {"max_groups": 400, "max_evaluations": 300}])
def test_a_stopped_search_goes_on_with_the_same_bits(parameters: dict[str, int]) -> None:
    budget = Budget((4,), HEADS)
    check_every_cut(make_method("evolution", parameters), lambda: curve_problem(Discarded(HEADS, 4), budget))


def test_heads_that_are_copies_can_be_searched() -> None:
    function = Discarded(HEADS, 6)
    function.rows[5:] = function.rows[:5]
    found = curve(function, Budget((4,), HEADS), max_groups=200)
    assert found[5] < 1e-9 < found[4]
    function.rows[:] = 0.0
    assert min(curve(function, Budget((4,), HEADS), max_groups=200).values()) == 0.0


def test_only_what_has_to_be_computed_and_is_too_much_is_screened() -> None:
    """Up to 13 heads everything may be asked for, as ever."""
    function = Pairwise(6, 0)
    ends = []
    for parameters in ({}, {"max_groups": None}):
        errors = SetErrors(6, one_by_one(function.error))
        whole = Problem({"error": errors.objective}, Budget((3,), 6), layer_errors=(errors,))
        search = make_method("evolution", parameters).search(
            whole.layer_problem(0, free_counts=True), np.random.default_rng(0)
        )
        ends.append([generation.front for generation in search])
    assert ends[0] == ends[1]
