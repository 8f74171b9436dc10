"""Keys and values grouped apart, through every refinement: shared heads stay shared, each side by its partition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import layers_replaced, tie_heads
from gqasearch.refining.grouped_parent import TrainedLayer
from gqasearch.separate_grouping import SeparateGrouping, SeparateLayer
from tests.refining.cases import REFINING, blocks_of, converter_of, refinement, site_error, site_of, state_of
from tests.refining.test_refinements import equal_layers
from tests.samples import logits_of
from tests.tiny_models import tiny_parent

APART = SeparateGrouping.from_sides(
    Grouping.from_labels([[0, 1, 0, 2, 1, 0], [0, 0, 1, 1, 2, 3], [0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1]])
)
KEPT = LayerGrouping.neighbours(6, 3)


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "gpt_neox", "opt"])
def test_attention_of_grouped_weights_is_that_of_tied_ones(family: str, tmp_path: Path) -> None:
    """The grouped layer called alone, against the parent's own code with a copy of K and V for every head."""
    parent = tiny_parent(family)
    merged, blocks = converter_of(parent, tmp_path).merged_layer(APART, 0), blocks_of(parent)
    site, tied = site_of(parent, APART, blocks), tie_heads(merged, APART.layers[0], 1)
    whole = site_of(parent, Grouping.uniform(LayerGrouping.singletons(6), 2), blocks)
    with torch.no_grad():
        for call in list(site.calls)[:2]:
            torch.testing.assert_close(site.attend(merged, call), whole.attend(tied, call), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", REFINING)
def test_shared_heads_stay_shared_and_the_error_falls(name: str, tmp_path: Path) -> None:
    parent = tiny_parent("qwen2")
    before, converter, blocks = state_of(parent), converter_of(parent, tmp_path), blocks_of(parent)
    refined = converter.refine(APART, blocks, refinement(name))
    assert [(len(layer.k), len(layer.v)) for layer in refined.values()] == [(3, 4), (6, 2)]
    site = site_of(parent, APART, blocks)
    assert site_error(site, refined[0]) < site_error(site, converter.merged_layer(APART, 0))
    assert all(torch.equal(tensor, before[key]) for key, tensor in parent.model.state_dict().items())


@pytest.mark.parametrize("name", REFINING)
def test_equal_partitions_give_the_same_bits(name: str, tmp_path: Path) -> None:
    parent = tiny_parent("llama")
    converter, blocks = converter_of(parent, tmp_path), blocks_of(parent)
    two = SeparateGrouping((SeparateLayer(KEPT, KEPT),) * 2)
    found = [converter.refine(one, blocks, refinement(name)) for one in (Grouping.uniform(KEPT, 2), two)]
    assert equal_layers(*map(dict, found))


def test_a_layer_that_shares_on_one_side_alone_is_refined(tmp_path: Path) -> None:
    parent = tiny_parent("llama")
    single = LayerGrouping.singletons(6)
    grouping = SeparateGrouping((SeparateLayer(single, KEPT), SeparateLayer(single, single)))
    converter, blocks = converter_of(parent, tmp_path), blocks_of(parent)
    refined = converter.refine(grouping, blocks, refinement("descent"))
    assert set(refined) == {0} and len(refined[0].k) == 6
    tied = converter.tied_layers(grouping, refined)
    with layers_replaced(parent, tied):
        assert torch.isfinite(logits_of(parent, blocks)).all()
    assert set(tied) == {0}


def test_a_trained_layer_ties_each_side_by_its_own(tmp_path: Path) -> None:
    parent = tiny_parent("qwen2")
    merged, layer = converter_of(parent, tmp_path).merged_layer(APART, 0), APART.layers[0]
    trained, tied = TrainedLayer(merged, layer, torch.float32).tied(), tie_heads(merged, layer, 1)
    for role in ("k", "v", "k_bias", "v_bias"):
        assert torch.equal(getattr(trained, role), getattr(tied, role))
    with pytest.raises(ValueError, match="3 KV heads for 4 groups"):
        TrainedLayer(merged, SeparateLayer(layer.values, layer.values), torch.float32)
