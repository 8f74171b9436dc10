"""Slots: every query head once, its group's slots where stock code reads that group's KV head."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gqasearch.checkpoints import lay_out, plan_layout, slots
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import HeadGeometry
from tests.tiny_models import tiny_parent

partitions = st.integers(1, 9).flatmap(lambda n: st.lists(st.integers(0, n - 1), min_size=n, max_size=n)).map(
    LayerGrouping.from_labels
)  # fmt: skip


def _geometry(heads: int, queries_per_kv: int, layers: int = 1) -> HeadGeometry:
    return HeadGeometry(layers, heads * queries_per_kv, heads, 4, 4 * heads * queries_per_kv, 4)


@given(partitions, st.integers(0, 2), st.integers(1, 3))
def test_every_query_head_has_one_slot_under_its_own_kv_head(layer: LayerGrouping, spare: int, per_kv: int) -> None:
    largest = max(layer.sizes) + spare
    placed = slots(layer, largest, per_kv)
    assert len(placed) == layer.num_groups * largest * per_kv
    assert sorted(query for query in placed if query is not None) == list(range(layer.num_heads * per_kv))
    slots_per_kv_head = len(placed) // layer.num_groups
    for slot, query in enumerate(placed):
        if query is not None:
            assert slot // slots_per_kv_head == layer.labels[query // per_kv]


def test_slots_by_hand() -> None:
    layer = LayerGrouping.from_groups([[0, 2, 3], [1]])
    assert slots(layer, 3, 1) == (0, 2, 3, 1, None, None)
    assert slots(layer, 3, 2) == (0, 1, 4, 5, 6, 7, 2, 3, None, None, None, None)


def test_too_little_room_is_refused() -> None:
    with pytest.raises(ValueError, match="a group has 3 heads, there is room for 2"):
        slots(LayerGrouping.from_groups([[0, 2, 3], [1]]), 2, 1)


@given(partitions, st.integers(1, 3))
def test_symmetric_exactly_when_groups_are_equal(layer: LayerGrouping, per_kv: int) -> None:
    layout = plan_layout(Grouping((layer,)), _geometry(layer.num_heads, per_kv))
    assert (layout.name == "stock-symmetric") == layer.is_equal_cardinality
    assert (None in layout.slots[0]) == (layout.name == "stock-padded")
    assert layout.query_heads == layer.num_groups * max(layer.sizes) * per_kv
    assert layout.query_heads % layout.kv_heads == 0


def test_room_is_that_of_the_largest_group_of_all_layers() -> None:
    grouping = Grouping.from_labels([[0, 0, 1, 1], [0, 1, 1, 1]])
    layout = plan_layout(grouping, _geometry(4, 1, layers=2))
    assert layout.slots == ((0, 1, None, 2, 3, None), (0, None, None, 1, 2, 3))


def test_group_counts_that_differ_are_refused_and_named() -> None:
    grouping = Grouping.from_labels([[0, 0, 1, 1], [0, 1, 2, 2], [0, 1, 0, 1]])
    with pytest.raises(UserError, match=r"has 2 to 3 \(by layer: 2, 3, 2\).*--kv-ratio or --kv-heads"):
        plan_layout(grouping, _geometry(4, 1, layers=3), "stock")


def test_empty_slots_are_zero_and_the_rest_is_moved_unchanged() -> None:
    weights = tiny_parent("qwen2", heads=4).layer(0)
    placed = lay_out(weights, (2, None, 0, 1, 3, None))
    for before, after in [(weights.q, placed.q), (weights.o, placed.o), (weights.q_bias, placed.q_bias)]:
        assert before is not None
        assert after is not None
        assert torch.equal(after[[0, 2, 3, 4]], before[[2, 0, 1, 3]])
        assert torch.equal(after[[1, 5]], torch.zeros_like(after[[1, 5]]))
    assert placed.k is weights.k
