"""Groupings and budgets: canonical, relabelling-proof, and refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqasearch.budget import Budget, counts_from_heads, counts_from_ratio, counts_from_total
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, GroupingError, LayerGrouping
from gqasearch.separate_grouping import SeparateGrouping, SeparateLayer, changed_layers, grouping_of

labels = st.lists(st.integers(0, 5), min_size=1, max_size=10)


@given(labels, st.permutations(range(6)))
def test_relabelling_is_the_same_object(values: list[int], renaming: list[int]) -> None:
    first = LayerGrouping.from_labels(values)
    second = LayerGrouping.from_labels([renaming[v] for v in values])
    assert first == second and hash(first) == hash(second)


@given(labels)
def test_labels_round_trip_as_a_restricted_growth_string(values: list[int]) -> None:
    grouping = LayerGrouping.from_labels(values)
    assert LayerGrouping.from_labels(grouping.labels) == grouping
    highest = -1
    for label in grouping.labels:
        assert label <= highest + 1
        highest = max(highest, label)
    for i, a in enumerate(values):
        for j, b in enumerate(values):
            assert (a == b) == (grouping.labels[i] == grouping.labels[j])


@given(st.integers(1, 40), st.data())
def test_neighbours_are_consecutive_and_even(heads: int, data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, heads))
    found = LayerGrouping.neighbours(heads, groups)
    assert found.num_groups == groups
    assert max(found.sizes) - min(found.sizes) <= 1
    assert [head for group in found.groups for head in group] == list(range(heads))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([[0, 1], [1, 2]], r"heads \[1\] stand in more than one group"),
        ([[0], [2]], r"heads \[2\] are outside"),
        ([[0, 1], []], "group 1 is empty"),
        ([], "no heads given"),
        ([[0, -1]], "outside"),
    ],
)
def test_no_partition_is_refused(groups: list[list[int]], message: str) -> None:
    with pytest.raises(GroupingError, match=message):
        LayerGrouping.from_groups(groups)


def test_missing_heads_are_named() -> None:
    with pytest.raises(GroupingError, match=r"heads \[3\] stand in no group"):
        LayerGrouping.from_groups([[0, 1], [2]], num_heads=4)
    with pytest.raises(GroupingError, match="canonical"):
        LayerGrouping(((1,), (0,)))


def test_totals() -> None:
    grouping = Grouping((LayerGrouping.neighbours(4, 2), LayerGrouping.singletons(4)))
    assert (grouping.kv_heads_total, grouping.kv_ratio, grouping.group_counts) == (6, 0.75, (2, 4))
    with pytest.raises(GroupingError, match="differ in their number of heads"):
        Grouping((LayerGrouping.singletons(3), LayerGrouping.singletons(4)))


@given(st.integers(1, 12), st.integers(1, 16), st.data())
def test_budgets(layers: int, heads: int, data: st.DataObject) -> None:
    total = data.draw(st.integers(layers, layers * heads))
    counts = counts_from_total(total, layers, heads)
    assert sum(counts) == total and max(counts) - min(counts) <= 1 and max(counts) <= heads
    ratio = data.draw(st.floats(0.001, 1))
    assert set(counts_from_ratio(ratio, layers, heads)) == {max(1, round(ratio * heads))}


@pytest.mark.parametrize("ratio", [0, -1, 2, float("nan")])
def test_bad_ratio(ratio: float) -> None:
    with pytest.raises(UserError, match="--kv-ratio must be above 0 and at most 1"):
        counts_from_ratio(ratio, 2, 4)


def test_infeasible_budgets() -> None:
    with pytest.raises(UserError, match=r"--kv-heads must be in 1\.\.4"):
        counts_from_heads(5, 2, 4)
    with pytest.raises(UserError, match=r"--kv-budget must be in 2\.\.8"):
        counts_from_total(1, 2, 4)
    with pytest.raises(UserError, match="cannot be split into 2 groups of 1 to 3 heads"):
        Budget((2,), 8, largest_group=3)


# Keys and values apart


def test_two_partitions_of_every_layer() -> None:
    sides = Grouping.from_labels([[0, 1, 0, 2], [0, 0, 0, 1], [0, 1, 2, 3], [0, 0, 0, 0]])
    grouping = SeparateGrouping.from_sides(sides)
    assert len(grouping) == 2 and grouping.num_heads == 4 and grouping.sides == sides
    assert grouping.layers[1] == SeparateLayer(sides.layers[2], sides.layers[3])
    assert (grouping.kv_heads_total, grouping.kv_ratio) == (10, 10 / 16)
    assert grouping.kv_bytes_per_token(8, 2) == (3 + 2 + 4 + 1) * 8 * 2
    same = SeparateGrouping(tuple(SeparateLayer(layer, layer) for layer in sides))
    assert same.kv_bytes_per_token(8, 2) == sides.kv_bytes_per_token(8, 2) and same.kv_ratio == sides.kv_ratio
    with pytest.raises(GroupingError, match="3 partitions are no two for every layer"):
        SeparateGrouping.from_sides(Grouping(sides.layers[:3]))
    with pytest.raises(GroupingError, match="keys group 4 heads, values 3"):
        SeparateLayer(sides.layers[0], LayerGrouping.singletons(3))


def test_layers_in_which_heads_share_on_any_side() -> None:
    single, pair = LayerGrouping.singletons(2), LayerGrouping.neighbours(2, 1)
    layers = [SeparateLayer(*sides) for sides in ((single, single), (single, pair), (pair, single))]
    assert changed_layers(grouping_of(layers)) == [1, 2]
    assert [SeparateLayer.of_side(side, pair) for side in ("values", "keys")] == layers[1:]
    assert changed_layers(grouping_of([pair, single])) == [0]
    with pytest.raises(GroupingError, match="some layers have one partition of their heads and some have two"):
        grouping_of([pair, layers[0]])
