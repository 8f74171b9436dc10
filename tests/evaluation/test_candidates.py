"""What a converter keeps of layers and groups, and what it drops."""

from __future__ import annotations

import pytest
import torch

from gqasearch.evaluation import Converter, candidates
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import LayerMerge, held_bytes, make_merge
from gqasearch.models import LayerWeights
from gqasearch.testing import InMemoryStatistics
from tests.samples import synthetic_statistics
from tests.tiny_models import tiny_parent

LAYERS = 4
ONE, OTHER = (LayerGrouping.from_labels(labels) for labels in ((0, 0, 1, 1, 2, 2), (0, 0, 1, 2, 1, 2)))


class Counted(Converter):
    """Notes which layers were bound, in order."""

    def __init__(self) -> None:
        parent = tiny_parent("llama", layers=LAYERS)
        layers = [parent.layer(index) for index in range(LAYERS)]
        statistics = InMemoryStatistics([synthetic_statistics(w, index) for index, w in enumerate(layers)])
        super().__init__(parent, make_merge("optimal"), lambda: statistics)
        self.asked: list[int] = []

    def layer_merge(self, layer: int) -> LayerMerge:
        before = set(self._layers)
        found = super().layer_merge(layer)
        self.asked += [] if layer in before else [layer]
        return found


def same(one: LayerWeights, other: LayerWeights) -> bool:
    return all(torch.equal(getattr(one, role), getattr(other, role)) for role in ("q", "k", "v", "o"))


def test_small_layers_are_all_kept() -> None:
    converter = Counted()
    for grouping in (ONE, OTHER):
        for index in range(LAYERS):
            converter.merged(index, grouping)
    assert converter.asked == list(range(LAYERS))


def test_what_takes_too_much_memory_is_dropped_and_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Counted()
    monkeypatch.setattr(candidates, "LAYER_BYTES", 2 * held_bytes(plain.layer_merge(0)) + 1000)
    converter = Counted()
    for index in (0, 1, 0, 2, 0, 1):
        assert converter.layer_merge(index).group_error((0, 1)) == plain.layer_merge(index).group_error((0, 1))
    assert converter.asked == [0, 1, 2, 1]  # layer 0 was used in between
    monkeypatch.setattr(candidates, "LAYER_BYTES", 1)
    assert converter.layer_merge(3) is converter.layer_merge(3)  # one stays, whatever it takes


def test_at_rest_only_small_layers_stay_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """And while layers are refined, which needs the memory itself."""
    converter = Counted()
    grouping = Grouping((ONE,) * LAYERS)
    converter.merged_layer(grouping, 0)
    converter.rest()
    assert len(converter._layers) == 1
    monkeypatch.setattr(candidates, "LAYER_BYTES", 1)
    before = converter.merged_layer(grouping, 0)
    assert same(converter._merged_once(grouping, 0), before) and not converter._layers
    converter.layer_merge(1)
    converter.rest()
    assert not converter._layers


def test_a_known_group_needs_no_bound_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "LAYER_BYTES", 1)
    converter, fresh = Counted(), Counted()
    first = converter.merged(0, ONE)
    converter.layer_merge(1)
    assert same(converter.merged(0, ONE), first) and converter.asked == [0, 1]
    assert same(first, fresh.layer_merge(0).merge(ONE))
    grouping = Grouping((OTHER,) * LAYERS)
    assert same(converter.merged_layer(grouping, 0), fresh.layer_merge(0).merge(OTHER))
    assert converter.asked == [0, 1, 0]  # two of the groups are new


def test_groups_are_kept_in_the_layers_own_dtype_within_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Counted()
    whole.merged(0, ONE)
    per_group = whole._groups.bytes // 3
    monkeypatch.setattr(candidates, "GROUP_BYTES", 2 * per_group)
    few = Counted()
    few.merged(0, ONE)
    layer = few.parent.layer(0)
    assert per_group == sum(t.nbytes for t in (layer.q, layer.o)) // 3 + sum(t.nbytes for t in (layer.k, layer.v)) // 6
    assert len(few._groups) == 2 and few._groups.bytes == 2 * per_group
