"""What attention adds to the residual stream, where the model does not simply add its output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gqasearch.models import Parent, decoder_layer, stream_after, wanted_of_attention
from tests.models.test_families import attention_call
from tests.tiny_models import tiny_parent

# What reads the stream just after attention.
READERS = {
    "llama": "post_attention_layernorm",
    "gemma": "post_attention_layernorm",
    "gemma2": "pre_feedforward_layernorm",
    "gemma3_text": "pre_feedforward_layernorm",
    "granite": "post_attention_layernorm",
    "glm4": "post_attention_layernorm",
    "exaone4": "mlp",
    "granitemoe": "post_attention_layernorm",
}


def around(parent: Parent, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Stream before attention, attention's output, stream after it, (B, T, D) each."""
    seen: list[Tensor] = []

    def note(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    block = decoder_layer(parent, layer)
    modules = (block, block.get_submodule(READERS[parent.family.name]))
    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in modules]
    _, attended = attention_call(parent, layer)
    for handle in handles:
        handle.remove()
    return seen[0], attended, seen[1]


@pytest.mark.parametrize("family", READERS)
def test_stream_after_attention_in_units_of_its_output(family: str) -> None:
    parent, generator = tiny_parent(family), torch.Generator().manual_seed(0)
    for layer in range(2):
        before, attended, after = around(parent, layer)
        found = stream_after(parent, layer, before, attended)
        # One factor a token, by which an error of the output reaches the stream on average.
        factor = (after.square().sum(-1) / found.square().sum(-1)).sqrt()[..., None]
        torch.testing.assert_close(found * factor, after, atol=1e-4, rtol=1e-4)
        tilt = 1e-3 * attended.norm(dim=-1, keepdim=True) * torch.randn(300, *attended.shape, generator=generator)
        gain = (after - before) / attended
        reached = (gain * tilt).square().sum(-1).mean(0).sqrt() / tilt.square().sum(-1).mean(0).sqrt()
        torch.testing.assert_close(reached, factor[..., 0], rtol=0.05, atol=0)


@pytest.mark.parametrize("family", READERS)
def test_attention_that_gives_what_is_wanted_makes_good_what_is_behind(family: str) -> None:
    parent, generator = tiny_parent(family), torch.Generator().manual_seed(0)
    for layer in range(2):
        before, attended, after = around(parent, layer)
        behind = 1e-3 * torch.randn(before.shape, generator=generator)
        wanted = wanted_of_attention(parent, layer, behind, attended)
        assert torch.equal(wanted_of_attention(parent, layer, torch.zeros_like(behind), attended), attended)
        gain = (after - before) / attended
        left = before - behind + gain * wanted - after
        assert float(left.norm()) < 0.03 * float(behind.norm())


def test_nothing_is_made_good_where_nothing_reaches_the_stream() -> None:
    parent = tiny_parent("gemma2")
    parent.model.get_parameter("model.layers.0.post_attention_layernorm.weight").data[5] = -1.0
    attended = torch.ones(1, 2, 48)
    wanted = wanted_of_attention(parent, 0, torch.ones(1, 2, 48), attended)
    assert torch.equal(wanted[..., 5], attended[..., 5])
    assert bool(torch.isfinite(wanted).all()) and not torch.equal(wanted, attended)
