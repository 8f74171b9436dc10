"""A run from the middle is the whole run, bit for bit, and leaves no trace on the model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gqasearch.grouping import LayerGrouping
from gqasearch.merging import make_merge
from gqasearch.models import Parent, decoder_layer, layers_replaced, run_from, tie_heads
from tests.matrix import FAMILIES
from tests.samples import logits_of, random_blocks
from tests.tiny_models import tiny_parent

LAYERS = 4


def four_layers(family: str) -> Parent:
    return tiny_parent(family, layers=LAYERS)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_can_be_started_at(family: str, padded: bool) -> None:
    parent = four_layers(family)
    blocks = random_blocks(parent.config["vocab_size"], blocks=3, padded=padded)
    whole, between = run_from(parent, blocks.ids, blocks.mask)
    assert torch.equal(whole, logits_of(parent, blocks))
    assert len(between) == LAYERS
    for layer in range(1, LAYERS):
        logits, later = run_from(parent, blocks.ids, blocks.mask, layer, between[layer - 1])
        assert torch.equal(logits, whole)
        assert len(later) == LAYERS - layer
        assert all(torch.equal(a, b) for a, b in zip(later, between[layer:], strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_what_enters_the_layers(family: str) -> None:
    parent = four_layers(family)
    blocks = random_blocks(parent.config["vocab_size"], padded=True)
    entered: list[Tensor] = []
    handles = [
        decoder_layer(parent, layer).register_forward_pre_hook(lambda _module, args: entered.append(args[0].clone()))
        for layer in range(1, LAYERS)
    ]
    _, between = run_from(parent, blocks.ids, blocks.mask)
    for handle in handles:
        handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(between[:-1], entered, strict=True))


def test_only_the_layers_from_there_on_run_and_see_what_they_are_given() -> None:
    parent = four_layers("llama")
    blocks = random_blocks(parent.config["vocab_size"])
    whole, between = run_from(parent, blocks.ids, blocks.mask)
    ran: list[int] = []

    def note(layer: int) -> None:
        module = decoder_layer(parent, layer).get_submodule("mlp")
        module.register_forward_hook(lambda *_: ran.append(layer))

    for layer in range(LAYERS):
        note(layer)
    other, _ = run_from(parent, blocks.ids, blocks.mask, 2, between[1] + 1.0)
    assert ran == [2, 3]
    assert not torch.allclose(other, whole, atol=1e-2)


def test_a_converted_layer_above_the_start_counts() -> None:
    parent = four_layers("qwen2")
    blocks = random_blocks(parent.config["vocab_size"])
    _, between = run_from(parent, blocks.ids, blocks.mask)
    layer = LayerGrouping.neighbours(6, 2)
    merged = make_merge("mean").for_layer(parent.layer(3), None).merge(layer)
    with layers_replaced(parent, {3: tie_heads(merged, layer, 1)}):
        wanted = logits_of(parent, blocks)
        found, _ = run_from(parent, blocks.ids, blocks.mask, 3, between[2])
    assert torch.equal(found, wanted)
    assert not torch.equal(found, logits_of(parent, blocks))


def test_layers_are_given_back_after_a_run_and_after_an_error() -> None:
    parent = four_layers("opt")
    blocks = random_blocks(parent.config["vocab_size"])
    before = logits_of(parent, blocks)
    _, between = run_from(parent, blocks.ids, blocks.mask)
    with pytest.raises(RuntimeError):
        run_from(parent, blocks.ids, blocks.mask, 2, between[1][..., :-1])  # the width is wrong
    for layer in range(LAYERS):
        module = decoder_layer(parent, layer)
        assert "forward" not in vars(module)
        assert not module._forward_hooks
    assert torch.equal(logits_of(parent, blocks), before)


def test_hidden_states_belong_to_a_start_above_the_first_layer() -> None:
    parent = four_layers("llama")
    blocks = random_blocks(parent.config["vocab_size"])
    with pytest.raises(ValueError, match="above layer 0, and only there"):
        run_from(parent, blocks.ids, blocks.mask, 1)
    with pytest.raises(ValueError, match="above layer 0, and only there"):
        run_from(parent, blocks.ids, blocks.mask, 0, torch.zeros(6, 24, 48))
