"""The streaming pass against statistics computed the plain way, from the model's own outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gqasearch.calibration import LayerStatistics, TokenBlocks, collect
from gqasearch.models import Parent
from tests.samples import random_blocks
from tests.tiny_models import tiny_parent


def plain_statistics(parent: Parent, blocks: TokenBlocks, layer: int) -> dict[str, torch.Tensor]:
    """Every block by itself, unpadded, token by token."""
    weights, block = parent.layer(layer).to(torch.float64), parent.model.model.layers[layer]
    x_rows, residual, attended, score = [], [], [], []
    heads = weights.q.shape[0]
    distance = torch.zeros(heads, blocks.ids.shape[1], dtype=torch.float64)
    parent.model.set_attn_implementation("eager")
    for ids, mask in zip(blocks.ids, blocks.mask, strict=True):
        with torch.no_grad():
            out = parent.model(
                input_ids=ids[mask][None], output_hidden_states=True, output_attentions=True, use_cache=False
            )
            x = block.input_layernorm(out.hidden_states[layer])[0].double()
        maps = out.attentions[layer][0].double()
        x_rows.append(x)
        added = torch.zeros_like(x)
        for q in range(weights.q.shape[0]):
            head = q // weights.queries_per_kv
            v = x @ weights.v[head].T + (0 if weights.v_bias is None else weights.v_bias[head])
            written = v @ weights.o[q].T
            mixed = maps[q] @ written
            added += mixed
            difference = written[None] - mixed[:, None]
            cost = maps[q].square() * difference.square().sum(-1)
            score.append(cost.sum(1))
            for back in range(len(x)):
                distance[q, back] += cost.diagonal(-back).sum()
        attended.append(torch.stack([maps[token % heads, token] @ x for token in range(len(x))]))
        residual.append((out.hidden_states[layer][0].double() + added).square().sum(1))
    parent.model.set_attn_implementation("sdpa")
    x = torch.cat(x_rows)
    gains = torch.stack([torch.cat(score[q::heads]).mean() for q in range(heads)])
    seen = torch.cat(attended)
    k = torch.stack([x @ weights.k[h].T + (0 if weights.k_bias is None else weights.k_bias[h])
                     for h in range(weights.num_kv_heads)])  # fmt: skip
    cosine = torch.nn.functional.cosine_similarity(k[:, None], k[None], dim=-1).mean(-1)
    return {
        "mean": x.mean(0),
        "second_moment": x.T @ x / len(x),
        "key_cosine": cosine,
        "attended_mean": seen.mean(0),
        "attended_moment": seen.T @ seen / len(seen),
        "score_gain": gains,
        "distance": distance / distance.sum(1, keepdim=True),
        "residual_energy": torch.cat(residual).mean().view(1),
    }


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("kv_heads", [6, 3])
def test_collected_equals_plain(family: str, kv_heads: int, tmp_path: Path) -> None:
    parent = tiny_parent(family, heads=6, kv_heads=kv_heads)
    blocks = random_blocks(parent.config["vocab_size"], padded=True)
    found = list(collect(parent, blocks, tmp_path, batch_blocks=4))
    for index, layer in enumerate(found):
        assert layer.tokens == blocks.tokens
        for name, wanted in plain_statistics(parent, blocks, index).items():
            message = name + ": {}"
            torch.testing.assert_close(getattr(layer, name), wanted, rtol=2e-4, atol=1e-5, msg=message.format)
        rotary = parent.model.model.rotary_emb.inv_freq.double()
        angles = torch.arange(blocks.ids.shape[1])[:, None] * rotary
        torch.testing.assert_close(layer.cosines, angles.cos(), rtol=0, atol=1e-5)
        torch.testing.assert_close(layer.sines, angles.sin(), rtol=0, atol=1e-5)


def fields_of(layer: LayerStatistics) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(layer).items() if isinstance(value, torch.Tensor)}


def test_padding_and_batches_do_not_count(tmp_path: Path) -> None:
    parent = tiny_parent("llama")
    blocks = random_blocks(parent.config["vocab_size"], padded=True)
    other = blocks.ids.clone()
    other[~blocks.mask] = 5
    changed = TokenBlocks(other, blocks.mask, blocks.source)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    first = list(collect(parent, blocks, tmp_path / "a", batch_blocks=2))
    second = list(collect(parent, changed, tmp_path / "b", batch_blocks=5))
    for a, b in zip(first, second, strict=True):
        for name, value in fields_of(a).items():
            torch.testing.assert_close(value, getattr(b, name), rtol=1e-5, atol=1e-6)


def test_parent_comes_back_unmodified(tmp_path: Path) -> None:
    parent = tiny_parent("llama")
    before = {name: tensor.clone() for name, tensor in parent.model.state_dict().items()}
    implementation = parent.model.config._attn_implementation
    list(collect(parent, random_blocks(parent.config["vocab_size"]), tmp_path))
    assert parent.model.config._attn_implementation == implementation
    assert all(torch.equal(before[name], tensor) for name, tensor in parent.model.state_dict().items())
    for module in parent.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_sample_is_evenly_spaced(tmp_path: Path) -> None:
    parent = tiny_parent("llama")
    blocks = random_blocks(parent.config["vocab_size"], blocks=10, length=20)
    layer = next(collect(parent, blocks, tmp_path, batch_blocks=3, sample_tokens=50))
    assert layer.sample.shape == (50, parent.geometry.hidden_size)
    with torch.no_grad():
        hidden = parent.model(input_ids=blocks.ids, output_hidden_states=True).hidden_states[0]
        x = parent.model.model.layers[0].input_layernorm(hidden).flatten(0, 1)
    torch.testing.assert_close(layer.sample, x[::4], rtol=1e-4, atol=1e-5)
