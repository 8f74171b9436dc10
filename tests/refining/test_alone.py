"""Layers refined one by one, on the parent's own stream."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import LayerWeights, decoder_layer
from gqasearch.refining import Descent, LayersAlone, LayerwiseRefinement, Outputs
from tests.matrix import FAMILIES
from tests.refining.cases import blocks_of, converter_of, state_of, untouched
from tests.tiny_models import tiny_parent

SHARED = LayerGrouping.from_labels([0, 1, 0, 2, 1, 0])
WAYS = (Outputs(validate=False), Descent(steps=3, validate=False))


def same(one: LayerWeights, other: LayerWeights) -> bool:
    pairs = ((getattr(one, field.name), getattr(other, field.name)) for field in fields(LayerWeights))
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("refinement", WAYS, ids=lambda way: way.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_is_the_refinement_of_a_model_with_that_layer_alone_grouped(
    family: str, refinement: LayerwiseRefinement, tmp_path: Path
) -> None:
    """Bit for bit, whatever was asked for before: a search that goes on must find the same."""
    parent = tiny_parent(family, layers=3)
    converter, blocks, before = converter_of(parent, tmp_path), blocks_of(parent, padded=True), state_of(parent)
    alone = LayersAlone(parent, blocks, refinement, batch_blocks=2)
    nothing = Grouping.uniform(LayerGrouping.singletons(6), 3)
    for index in (2, 0, 1):
        grouping = nothing.replace_layer(index, SHARED)
        wanted = converter.refine(grouping, blocks, refinement, batch_blocks=2)[index]
        found = alone.refine(index, SHARED, converter.merged_layer(grouping, index))
        assert same(found, wanted)
        assert not same(found, converter.merged_layer(grouping, index).to(found.q.dtype))
    assert untouched(parent, before)


def test_nothing_is_left_on_the_parents_layers() -> None:
    """Their work is left out where only their arguments are wanted, also when that fails."""
    parent = tiny_parent("llama")
    blocks = blocks_of(parent)
    LayersAlone(parent, blocks, Outputs(validate=False))
    blocks.ids[0, 0] = 10**6  # no such token
    with pytest.raises(IndexError):
        LayersAlone(parent, blocks, Outputs(validate=False))
    for index in range(parent.geometry.num_layers):
        layer = decoder_layer(parent, index)
        assert "forward" not in vars(layer) and not layer._forward_hooks and not layer._forward_pre_hooks
