"""Keys and values grouped apart: every merge goes by each side's partition, and errors of the sides add up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gqasearch.checkpoints import merged_by_group
from gqasearch.grouping import LayerGrouping
from gqasearch.merging import MERGES, make_merge
from gqasearch.merging.selected import OF_SIDE
from gqasearch.models import LayerWeights
from gqasearch.separate_grouping import SIDES, SeparateLayer
from tests.matrix import GROUPED_KINDS
from tests.merging.layers import bound, source_layer

KEYS, VALUES = LayerGrouping.from_labels([0, 1, 0, 2, 1, 0]), LayerGrouping.from_labels([0, 0, 1, 1, 2, 3])
GROUPS = [(0, 1), (1, 3, 4), (0, 1, 2, 3, 4, 5)]


def partitions(heads: int) -> SeparateLayer:
    """Two that differ, of so many heads."""
    keys, values = (LayerGrouping.from_labels(side.labels[:heads]) for side in (KEYS, VALUES))
    return SeparateLayer(keys, values)


def same(one: LayerWeights, other: LayerWeights, roles: tuple[str, ...]) -> bool:
    pairs = [(getattr(one, role), getattr(other, role)) for role in roles]
    return all(a is b is None or torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("family", "kv_heads"), GROUPED_KINDS)
@pytest.mark.parametrize("name", sorted(MERGES))
def test_each_side_is_merged_as_its_partition_says(name: str, family: str, kv_heads: int) -> None:
    """Bit for bit what the merge makes of that side where both have the partition."""
    merge, layer = bound(name, family, kv_heads=kv_heads), partitions(kv_heads)
    found = merge.merge(layer)
    for side in SIDES:
        alone = merge.merge(getattr(layer, side))
        assert same(found, alone, OF_SIDE[side])
        only = merge.merge(SeparateLayer.of_side(side, getattr(layer, side)))
        (other,) = (one for one in SIDES if one != side)
        assert same(only, alone, OF_SIDE[side]) and same(only, merge.source, OF_SIDE[other])
    assert len(found.k) == layer.keys.num_groups and len(found.v) == layer.values.num_groups


@pytest.mark.parametrize(("family", "kv_heads"), [kind for kind in GROUPED_KINDS if kind[1] == 6])
@pytest.mark.parametrize("name", sorted(MERGES))
def test_errors_of_the_sides_add_up(name: str, family: str, kv_heads: int) -> None:
    merge = bound(name, family, kv_heads=kv_heads)
    both = merge.group_errors(GROUPS)
    keys, values = (merge.group_errors(GROUPS, side) for side in SIDES)
    assert [a + b for a, b in zip(keys, values, strict=True)] == pytest.approx(both, rel=1e-9)
    assert all(error > 0 for error in (*keys, *values)) and merge.group_error((2,), "keys") == 0.0


@pytest.mark.parametrize("name", ["mean", "optimal"])
def test_the_error_of_a_side_does_not_see_the_other(name: str) -> None:
    """Other values move no error of keys, and the other way round."""
    merge = bound(name, "llama")
    w = merge.source
    for side, changed in (("keys", replace(w, v=2 * w.v)), ("values", replace(w, k=2 * w.k))):
        other = make_merge(name).for_layer(changed, merge.statistics)
        assert other.group_errors(GROUPS, side) == merge.group_errors(GROUPS, side)
        assert other.group_errors(GROUPS) != merge.group_errors(GROUPS)


@pytest.mark.parametrize("name", [name for name in sorted(MERGES) if make_merge(name).needs == "weights"])
def test_one_group_at_a_time_gives_the_same(name: str) -> None:
    layer, merge = source_layer("qwen2"), make_merge(name)
    found = merged_by_group(merge, layer, SeparateLayer(KEYS, VALUES))
    assert same(
        found, merge.for_layer(layer).merge(SeparateLayer(KEYS, VALUES)), (*OF_SIDE["keys"], *OF_SIDE["values"])
    )
