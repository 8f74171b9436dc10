"""A progressive merge begins at the parent and ends at the grouped model; frames change nothing but the way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gqasearch.evaluation import model_runner, tied_runner
from gqasearch.healing import GroupedParent, ProgressiveParent
from gqasearch.healing.frames import towards
from gqasearch.models import LayerWeights, tie_heads
from gqasearch.refining.grouped_parent import TRAINED
from tests.healing.parents import EVERY_SOURCE, SOURCES, blocks_for, grouping_for, mean_merged, parent_of
from tests.tiny_models import tiny_parent


def logits_at(model: ProgressiveParent, share: float, family: str) -> torch.Tensor:
    blocks = blocks_for(family)
    model.set_share(share)
    logits: torch.Tensor = model(blocks.ids, blocks.mask.long()).logits
    return logits


@pytest.mark.parametrize(("family", "kv_heads"), SOURCES)
def test_both_ends_are_exact(family: str, kv_heads: int) -> None:
    parent, grouping, blocks = parent_of(family, kv_heads), grouping_for(kv_heads), blocks_for(family)
    layers = mean_merged(parent, grouping)
    model = ProgressiveParent(parent, grouping, layers)
    own = model_runner(parent.model)(blocks.ids, blocks.mask)
    grouped = GroupedParent(parent, grouping, layers)(blocks.ids, blocks.mask.long()).logits
    torch.testing.assert_close(logits_at(model, 0, family), own, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits_at(model, 1, family), grouped)
    half = logits_at(model, 0.5, family)
    assert not torch.allclose(half, own, atol=0.01) and not torch.allclose(half, grouped, atol=0.01)


def test_in_the_end_what_heads_had_of_their_own_has_no_effect_and_gets_no_gradient() -> None:
    parent, grouping = tiny_parent("qwen2"), grouping_for(6)
    model = ProgressiveParent(parent, grouping, mean_merged(parent, grouping))
    before = logits_at(model, 1, "qwen2")
    before.square().mean().backward()
    assert not any(parameter.grad.any() for parameter in model.own.parameters() if parameter.grad is not None)
    assert all(parameter.grad.any() for parameter in model.layers.parameters() if parameter.grad is not None)
    with torch.no_grad():
        for parameter in model.own.parameters():
            parameter.mul_(3)
    assert torch.equal(logits_at(model, 1, "qwen2"), before)
    assert not torch.equal(logits_at(model, 0.9, "qwen2"), before)


def test_on_the_way_both_are_trained_in_proportion() -> None:
    parent, grouping = tiny_parent("llama"), grouping_for(6)
    model = ProgressiveParent(parent, grouping, mean_merged(parent, grouping))
    logits_at(model, 0.75, "llama").square().mean().backward()
    for index in range(2):
        # W_q of a head is one of each: the same gradient, times the share.
        own, shared = model.own[str(index)].q.grad, model.layers[index].q.grad
        torch.testing.assert_close(own * 3, shared, rtol=1e-4, atol=1e-8)


def test_the_share_is_in_the_state_and_bounded() -> None:
    parent, grouping = tiny_parent("llama"), grouping_for(6)
    layers = mean_merged(parent, grouping)
    model, other = (ProgressiveParent(parent, grouping, layers) for _ in range(2))
    model.set_share(0.25)
    other.load_state_dict(model.state_dict())
    assert float(other.share) == 0.25
    with pytest.raises(ValueError, match=r"from 0 to 1, got 1\.5"):
        model.set_share(1.5)


def turned_by_hand(layer: LayerWeights) -> LayerWeights:
    """Other weights for the same function: V heads rotated at random, a phase on every rotary pair of K."""
    generator = torch.Generator().manual_seed(3)
    heads, d, m = layer.num_kv_heads, layer.head_dim, layer.queries_per_kv
    v_turn = torch.linalg.qr(torch.randn(heads, d, d, generator=generator, dtype=torch.float64))[0]
    half = layer.rotary_dim // 2
    phase = torch.polar(torch.ones(heads, half), torch.rand(heads, half, generator=generator) * 6).to(torch.complex128)
    rest = torch.linalg.qr(torch.randn(heads, d - 2 * half, d - 2 * half, generator=generator, dtype=torch.float64))[0]

    def key_turned(rows: torch.Tensor, times: int) -> torch.Tensor:
        turned = phase.repeat_interleave(times, 0)[..., None] * torch.complex(rows[:, :half], rows[:, half : 2 * half])
        return torch.cat([turned.real, turned.imag, rest.repeat_interleave(times, 0) @ rows[:, 2 * half :]], dim=1)

    wide = layer.to(torch.float64)
    turned = replace(
        wide,
        k=key_turned(wide.k, 1),
        q=key_turned(wide.q, m),
        v=v_turn @ wide.v,
        o=wide.o @ v_turn.mT.repeat_interleave(m, 0),
    )
    if wide.k_bias is None or wide.q_bias is None or wide.v_bias is None:
        return turned
    return replace(
        turned,
        k_bias=key_turned(wide.k_bias[..., None], 1)[..., 0],
        q_bias=key_turned(wide.q_bias[..., None], m)[..., 0],
        v_bias=(v_turn @ wide.v_bias[..., None])[..., 0],
    )


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "phi", "opt", "gpt2", "smollm3"])
def test_frames_undo_any_rotation(family: str) -> None:
    """Of a layer that was only turned nothing is left to merge: its frame is found to the last digit."""
    for kv_heads in {kv for name, kv in EVERY_SOURCE if name == family}:
        parent = parent_of(family, kv_heads)
        for index in range(2):
            layer = parent.layer(index)
            target = turned_by_hand(layer)
            found = towards(layer, target)
            for name in TRAINED:
                if (wanted := getattr(target, name)) is not None:
                    torch.testing.assert_close(getattr(found, name), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "phi", "opt", "starcoder2"])
def test_frames_bring_keys_and_values_nearer_and_leave_the_model_alone(family: str) -> None:
    parent, grouping, blocks = parent_of(family, 6), grouping_for(6), blocks_for(family)
    turned = {}
    for index, merged in mean_merged(parent, grouping).items():
        own, shared = parent.layer(index), tie_heads(merged, grouping.layers[index], 1)
        found = towards(own, shared)
        assert distance(found.v, shared.v) < distance(own.v, shared.v)
        if own.k_norm is None:
            assert distance(found.k, shared.k) < distance(own.k, shared.k)
        else:
            assert torch.equal(found.k.float(), own.k) and torch.equal(found.q.float(), own.q)
        turned[index] = found.to(torch.float32)
    runs = (tied_runner(parent, turned), model_runner(parent.model))
    torch.testing.assert_close(*(run(blocks.ids, blocks.mask) for run in runs), rtol=1e-4, atol=1e-4)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).square().sum())
