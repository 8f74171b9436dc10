"""What was tried beside the product's refinements does what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.quality.block_target import BlockDescent, BlockSite, BlockStreams
from experiments.quality.centred import Centred
from experiments.quality.newton import Linearised
from experiments.quality.reranked import best_by_error, neighbours
from experiments.quality.tried import simply, slots_filled
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import Optimal
from gqasearch.models import Parent, decoder_layer, load_parent
from gqasearch.refining import Descent
from gqasearch.refining.streams import Streams
from gqasearch.refining.whitening import WhitenedCalls, Whitening
from tests.refining.cases import blocks_of, converter_of
from tests.samples import logits_of
from tests.tiny_models import save_checkpoint, tiny_model, tiny_parent

LAYER = LayerGrouping.from_groups([[0, 2, 3, 4], [1, 5]])


@pytest.fixture
def parent() -> Parent:
    return tiny_parent("llama")


def test_a_block_site_gives_all_that_a_layer_adds(parent: Parent) -> None:
    """With the parent's own weights that is the parent's stream after the layer, and nothing is left."""
    whole = LayerGrouping.singletons(6)
    with torch.no_grad():
        streams = BlockStreams(parent, blocks_of(parent), 2)
        streams.advance_parent(0)
        site = streams.site(0, whole)
        block = BlockSite(site.parent, site.index, site.layer, site.calls, site.constants, site.dtype)
        for call in site.calls:
            added = block.attend(parent.layer(0), call)
            torch.testing.assert_close(call.residual + added, call.risen, rtol=1e-4, atol=1e-5)  # type: ignore[attr-defined]


def test_the_block_is_what_is_fitted(parent: Parent, tmp_path: Path) -> None:
    """After the descent to it the stream behind the layer is closer than after as many steps to attention's part."""
    converter, blocks = converter_of(parent, tmp_path), blocks_of(parent)
    grouping = Grouping((LAYER, LayerGrouping.singletons(6)))
    errors = []
    for kind in (BlockDescent, Descent):
        with torch.no_grad():
            streams = BlockStreams(parent, blocks, 2)
            streams.advance_parent(0)
            site = streams.site(0, LAYER)
            found = kind(steps=60).refine_layer(site, converter.merged_layer(grouping, 0), lambda: None)
            block = BlockSite(site.parent, site.index, site.layer, site.calls, site.constants, site.dtype)
            left = [call.residual + block.attend(found, call) - call.risen for call in site.calls]  # type: ignore[attr-defined]
            errors.append(sum(float(one.square().sum()) for one in left))
    assert errors[0] < errors[1]


def test_an_mlp_elsewhere_is_refused() -> None:
    other = tiny_parent("gpt_neox")
    assert not hasattr(decoder_layer(other, 0), "mlp.down_proj")
    opt = tiny_parent("opt")
    streams = Streams(opt, blocks_of(opt), 2)
    streams.advance_parent(0)
    site = streams.site(0, LAYER)
    with pytest.raises(UserError, match="no post_attention_layernorm and mlp"):
        _ = BlockSite(site.parent, site.index, site.layer, site.calls, site.constants, site.dtype)._modules


def test_gauss_newton_sees_the_curvature(parent: Parent, tmp_path: Path) -> None:
    """d^T (J^T J) d is what the layer's output changes by, squared."""
    converter, blocks = converter_of(parent, tmp_path), blocks_of(parent)
    with torch.no_grad():
        streams = Streams(parent, blocks, 2)
        streams.advance_parent(0)
        site = streams.site(0, LAYER)
        whitening = Whitening.of(site)
        weights = whitening.into(converter.merged_layer(Grouping((LAYER, LAYER)), 0))
    linear = Linearised(site, weights, WhitenedCalls(site, whitening), range(len(site.calls)))
    generator = torch.Generator().manual_seed(0)
    change = {name: torch.randn(getattr(weights, name).shape, generator=generator) for name in linear.sizes}
    squared = linear._squared(change)
    small = 1e-3
    with torch.no_grad():
        up = [linear._attended(linear.moved(change, small), index) for index in linear.indices]
        down = [linear._attended(linear.moved(change, -small), index) for index in linear.indices]
    wanted = sum(float(((a - b) / (2 * small)).square().sum()) for a, b in zip(up, down, strict=True))
    assert sum(float((squared[name] * change[name]).sum()) for name in change) == pytest.approx(wanted, rel=0.05)


def test_neighbours_keep_the_number_of_groups() -> None:
    found = set(neighbours(LAYER))
    assert LAYER not in found and {layer.num_groups for layer in found} == {2}
    assert len(found) == 6 + 8  # every head may move, and 4 x 2 pairs change places


def test_the_best_by_error_come_first(parent: Parent, tmp_path: Path) -> None:
    merge = converter_of(parent, tmp_path).layer_merge(0)
    found = best_by_error(merge, LAYER, 5)
    errors = [sum(merge.group_errors(layer.groups)) for layer in found]
    assert errors == sorted(errors) and len(set(found)) == 5
    assert errors[0] == min(sum(merge.group_errors(layer.groups)) for layer in {LAYER, *neighbours(LAYER)})


def test_a_mean_that_counts_wholly_is_the_optimal_merge(parent: Parent, tmp_path: Path) -> None:
    bound = converter_of(parent, tmp_path).layer_merge(0)
    own, statistics = bound.source, bound.require_statistics()
    wanted = Optimal().for_layer(own, statistics).merge_group((0, 2, 3))
    same, without = (Centred(share=share).for_layer(own, statistics).merge_group((0, 2, 3)) for share in (1.0, 0.0))
    torch.testing.assert_close(same.q, wanted.q, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(without.q, wanted.q, rtol=1e-2) and torch.equal(without.v, wanted.v)


def test_slots_are_filled_with_what_brings_the_model_closer(tmp_path: Path) -> None:
    parent = load_parent(str(save_checkpoint(tiny_model("llama"), tmp_path / "model")))
    converter, blocks = converter_of(parent, tmp_path), blocks_of(parent)
    grouping, own = Grouping((LAYER, LAYER)), logits_of(parent, blocks)
    errors = [
        float((way(Descent(steps=20))(converter, grouping, blocks, 4)(blocks.ids, blocks.mask) - own).square().mean())
        for way in (slots_filled, simply)
    ]
    assert errors[0] < errors[1]
    with pytest.raises(UserError, match="in files"):
        slots_filled(Descent(steps=1))(converter_of(replace(parent, directory=None), tmp_path), grouping, blocks, 4)
