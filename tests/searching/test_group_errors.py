"""Errors as sums over groups: one value whatever the labels, whatever is evaluated beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.group_errors import group_masks
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.pairwise import pairwise_errors
from gqasearch.searching import PairwiseErrors, Problem, SetErrors
from gqasearch.searching.evolution.group_descent import GroupDescent
from gqasearch.searching.operators import random_partition
from gqasearch.searching.record import Record
from tests.searching.problems import Pairwise, SetFunction, all_partitions, budgets, one_by_one, seeds

labellings = st.integers(1, 12).flatmap(lambda heads: st.lists(st.integers(-3, 20), min_size=heads, max_size=heads))


@given(labels=labellings, seed=seeds)
def test_pairwise_errors_are_the_sum_of_squares_about_group_means(labels: list[int], seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(len(labels), 5))
    distances = ((points[:, None] - points[None]) ** 2).sum(-1)
    groups = LayerGrouping.from_labels(labels).groups
    direct = sum(float(((points[list(g)] - points[list(g)].mean(0)) ** 2).sum()) for g in groups)
    assert pairwise_errors(distances, np.array([labels]))[0] == pytest.approx(direct, rel=1e-12, abs=1e-12)


@given(labels=labellings, seed=seeds)
def test_relabelling_changes_no_bit(labels: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = dict(zip(sorted(set(labels)), rng.permutation(100).tolist(), strict=False))
    renamed = [names[label] for label in labels]
    for errors in (PairwiseErrors(Pairwise(len(labels), seed).distances), SetErrors(len(labels), one_by_one(len))):
        assert errors.evaluate(np.array([labels])) == errors.evaluate(np.array([renamed]))
    assert group_masks(labels) == group_masks(renamed)


def test_a_row_has_the_same_bits_whatever_stands_beside_it() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=(700, 17))
    errors = PairwiseErrors(Pairwise(17, 0).distances)
    together = errors.evaluate(labels)
    assert together.tolist() == [errors.evaluate(row[None])[0] for row in labels]


def test_sums_over_groups_agree_with_group_errors() -> None:
    function = Pairwise(6, 1)
    pairwise, sets = PairwiseErrors(function.distances), SetErrors(6, one_by_one(function.error))
    for layer in all_partitions(6):
        expected = sum(map(pairwise.group_error, layer.groups))
        for errors in (pairwise, sets):
            assert errors.objective([Grouping((layer,))])[0] == pytest.approx(expected, rel=1e-12)


def test_splitting_a_group_never_raises_a_pairwise_error() -> None:
    function = Pairwise(7, 2)
    errors = PairwiseErrors(function.distances)
    for layer in all_partitions(7):
        whole = sum(map(errors.group_error, layer.groups))
        for index, group in enumerate(layer.groups):
            for cut in range(1, len(group)):
                parts = [*layer.groups[:index], *layer.groups[index + 1 :], group[:cut], group[cut:]]
                assert sum(map(errors.group_error, parts)) <= whole * (1 + 1e-12)


def test_a_set_function_is_asked_once_per_group() -> None:
    asked: list[tuple[int, ...]] = []

    def function(heads: tuple[int, ...]) -> float:
        asked.append(heads)
        return float(len(heads))

    errors = SetErrors(4, one_by_one(function))
    labels = np.array([[0, 0, 1, 1], [0, 0, 1, 2], [3, 3, 0, 0]])
    assert errors.evaluate(labels).tolist() == [4, 2, 4]
    assert sorted(asked) == [(0, 1), (2, 3)]
    assert errors.group_error((1, 0)) == 2 and len(asked) == 2


class Batches:
    """A set function of many groups at once; ``asked``: what each call was for."""

    def __init__(self, function: SetFunction) -> None:
        self.function = function
        self.asked: list[list[tuple[int, ...]]] = []

    def __call__(self, groups: Sequence[tuple[int, ...]]) -> list[float]:
        self.asked.append(list(groups))
        return list(map(self.function.error, groups))


def test_what_is_asked_together_is_computed_together_and_once() -> None:
    function = SetFunction(5, 0)
    batches = Batches(function)
    errors = SetErrors(5, batches)
    labels = np.array([[0, 0, 1, 1, 2], [0, 0, 1, 2, 2], [0, 1, 1, 0, 0]])
    expected = [function.of(LayerGrouping.from_labels(row)) for row in labels.tolist()]
    assert errors.evaluate(labels).tolist() == expected
    assert batches.asked == [[(0, 1), (2, 3), (3, 4), (0, 3, 4), (1, 2)]]
    assert errors.mask_errors([0b00011, 0b01001, 0b00001]) == [function.error((0, 1)), function.error((0, 3)), 0.0]
    assert errors.group_errors([(3, 4), (0, 3)]) == [function.error((3, 4)), function.error((0, 3))]
    assert batches.asked[1:] == [[(0, 3)]]


@pytest.mark.parametrize("groups", [((0, 2), (1,), (3, 4, 5)), ((0, 1, 2, 3, 4, 5),), ()])
def test_unions_are_those_of_the_set_function(groups: tuple[tuple[int, ...], ...]) -> None:
    function = SetFunction(6, 1)
    batches = Batches(function)
    found = SetErrors(6, batches).union_errors(groups)
    assert found.shape == (len(groups), len(groups)) and len(batches.asked) <= 1
    for i, one in enumerate(groups):
        for j, two in enumerate(groups):
            assert found[i, j] == function.error(tuple(sorted({*one, *two})))


@given(budget=budgets(max_heads=8), seed=seeds)
def test_descents_are_the_same_whether_errors_come_together_or_one_by_one(budget: Budget, seed: int) -> None:
    function = SetFunction(budget.num_heads, seed)
    batches = Batches(function)
    starts = [random_partition(budget.counts[0], budget, np.random.default_rng(seed + k)) for k in range(3)]
    ends = []
    for errors in (SetErrors(budget.num_heads, one_by_one(function.error)), SetErrors(budget.num_heads, batches)):
        rng = np.random.default_rng(seed)
        record = Record(Problem({"error": errors.objective}, budget, layer_errors=(errors,)))
        met = GroupDescent(record, errors, rng).descend(record.evaluate([Grouping((one,)) for one in starts]), 10)
        ends.append(([one.candidate for one in met], record.evaluations, rng.random()))
    assert ends[0] == ends[1]
    asked = [group for call in batches.asked for group in call]
    assert len(asked) == len(set(asked)) and min(map(len, asked), default=2) > 1


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(UserError, match=r"nan for heads \[0, 2\]"):
        SetErrors(3, one_by_one(lambda heads: float("nan"))).group_error((0, 2))
    with pytest.raises(UserError, match=r"inf for heads \[1, 2\]"):
        SetErrors(3, lambda groups: [1.0, float("inf")]).group_errors([(0, 1), (1, 2)])
    distances = np.ones((3, 3))
    distances[0, 1] = np.inf
    with pytest.raises(UserError, match="not finite"):
        PairwiseErrors(distances)


def test_the_table_of_a_random_set_function() -> None:
    function = SetFunction(5, 3)
    errors = SetErrors(5, one_by_one(function.error))
    for layer in all_partitions(5):
        assert errors.objective([Grouping((layer,))])[0] == pytest.approx(function.of(layer), rel=1e-15)
