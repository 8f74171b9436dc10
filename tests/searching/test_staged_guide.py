"""What staged evolution starts from: the guide's table against counting out, and measured sensitivities."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from gqasearch.budget import Budget
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching import SetErrors
from gqasearch.searching.operators import count_range
from gqasearch.searching.problem import FloatArray
from gqasearch.searching.staged.guide import GuideTable, trace_guide
from gqasearch.searching.staged.sensitivity import measure_sensitivity
from tests.searching.problems import Pairwise, SetFunction, one_by_one, partitions_within
from tests.searching.text_problems import weighted_sum


@pytest.mark.parametrize(("heads", "bounds"), [(6, {}), (6, {"largest_group": 3}), (6, {"smallest_group": 2})])
def test_the_table_is_that_of_counting_out(heads: int, bounds: dict[str, int]) -> None:
    functions = [SetFunction(heads, seed) for seed in range(2)]
    guide = [SetErrors(heads, one_by_one(function.error)) for function in functions]
    budget = Budget((2, 3), heads, movable=True, **bounds)
    table = trace_guide(guide, budget, np.random.default_rng(0))
    low, high = count_range(budget)
    for layer, function in enumerate(functions):
        assert list(table.partitions[layer]) == list(range(low, high + 1))
        wanted = np.full(heads, np.inf)
        for count in range(low, high + 1):
            wanted[count - 1] = min(map(function.of, partitions_within(budget, count)))
            assert table.partitions[layer][count] in partitions_within(budget, count)
        if budget.smallest_group == 1:
            # Random set functions need not fall with more groups, so a front may lack a count.
            wanted_front = [g for g in range(low, high + 1) if wanted[g - 1] < np.min([np.inf, *wanted[: g - 1]])]
            for count in wanted_front:
                assert table.errors[layer, count - 1] == pytest.approx(wanted[count - 1], rel=1e-12)
        assert np.isinf(table.errors[layer, [g - 1 for g in range(1, heads + 1) if not low <= g <= high]]).all()


def test_more_groups_than_pay_cost_nothing_either() -> None:
    """Heads 0 3, 1 4 and 2 5 are copies: three groups are free, so are four and five that split them."""
    function = Pairwise(6, 0)
    copies = np.tile(function.distances[:3, :3], (2, 2))
    function.distances = copies
    table = trace_guide([SetErrors(6, one_by_one(function.error))], Budget((3,), 6), np.random.default_rng(0))
    assert table.partitions[0][3] == LayerGrouping.from_labels([0, 1, 2, 0, 1, 2])
    assert table.errors[0, :2].min() > 0 and table.errors[0, 2:].max() < 1e-12
    assert [layer.num_groups for layer in table.partitions[0].values()] == [1, 2, 3, 4, 5, 6]


def table_of(functions: Sequence[SetFunction], budget: Budget) -> GuideTable:
    guide = [SetErrors(function.num_heads, one_by_one(function.error)) for function in functions]
    return trace_guide(guide, budget, np.random.default_rng(0))


@pytest.mark.parametrize("levels", [1, 2, 4, 50])
def test_sensitivity_finds_the_weights_of_a_sum(levels: int) -> None:
    functions = [Pairwise(5, layer) for layer in range(3)]
    weights = (1.0, 50.0, 0.0)
    true = weighted_sum(functions, weights)
    budget = Budget((2, 3, 3), 5, movable=True, largest_group=4)
    table = table_of(functions, budget)
    asked: list[Grouping] = []

    def measure(groupings: list[Grouping]) -> FloatArray:
        asked.extend(groupings)
        return true(groupings) + 7.0  # what the parent itself has

    found, of_layers = measure_sensitivity(table, measure, levels)
    np.testing.assert_allclose(found, np.repeat(np.array(weights)[:, None], 5, axis=1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(of_layers, found, rtol=1e-9, atol=1e-12)
    assert len(asked) == 1 + 3 * min(levels, 3)  # 2, 3 and 4 groups are possible
    assert all(sum(layer.num_groups < 5 for layer in grouping) == (i > 0) for i, grouping in enumerate(asked))
    split = table.split(8, found)
    assert split.group_counts[1] > 2 and split != table.split(8)
    splits = (c for c in product(range(2, 6), repeat=3) if sum(c) == 8)
    assert true([split])[0] == pytest.approx(min(true([table.grouping(c)])[0] for c in splits), rel=1e-12)


def test_sensitivity_is_interpolated_between_what_was_measured() -> None:
    functions = [Pairwise(5, 0)]
    table = table_of(functions, Budget((2,), 5))

    def measure(groupings: list[Grouping]) -> FloatArray:
        """Per unit of error, as many as there are groups."""
        return np.array([functions[0].of(g.layers[0]) * g.layers[0].num_groups for g in groupings])

    by_level, by_layer = measure_sensitivity(table, measure, 2)
    np.testing.assert_allclose(by_level[0], [1, 2, 3, 4, 4], rtol=1e-9)
    np.testing.assert_allclose(by_layer[0], [2.5] * 5, rtol=1e-9)  # measured at one and at four groups
    np.testing.assert_allclose(measure_sensitivity(table, lambda g: -measure(g), 2), 0.0)
