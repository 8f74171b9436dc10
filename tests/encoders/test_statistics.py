"""Statistics of encoders against the plain way: every block by itself, every token attending to all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gqasearch.calibration import TokenBlocks, collect
from gqasearch.models import Parent
from tests.matrix import sampled
from tests.tiny_encoders import ENCODERS, encoder_parent, masked_blocks


def plain_statistics(parent: Parent, blocks: TokenBlocks, layer: int) -> dict[str, torch.Tensor]:
    w = parent.layer(layer).to(torch.float64)
    assert w.q_bias is not None and w.k_bias is not None and w.v_bias is not None
    heads, length = w.q.shape[0], blocks.ids.shape[1]
    bias = parent.model.get_parameter(parent.family.tensor_name(layer, "o.bias")).detach().double()
    distance, gains = torch.zeros(heads, length, dtype=torch.float64), torch.zeros(heads, dtype=torch.float64)
    xs, attended, energies = [], [], []
    for ids, mask in zip(blocks.ids, blocks.mask, strict=True):
        with torch.no_grad():
            hidden = parent.model(input_ids=ids[mask][None], output_hidden_states=True).hidden_states
        x = hidden[layer][0].double()  # post-norm: what attention reads is the stream
        added, maps = bias.expand_as(x).clone(), []
        for h in range(heads):
            q, k, v = x @ w.q[h].T + w.q_bias[h], x @ w.k[h].T + w.k_bias[h], x @ w.v[h].T + w.v_bias[h]
            maps.append((q @ k.T * w.head_dim**-0.5).softmax(-1))
            written = v @ w.o[h].T
            added += maps[h] @ written
            cost = maps[h].square() * (written[None] - (maps[h] @ written)[:, None]).square().sum(-1)
            gains[h] += cost.sum()
            for t in range(len(x)):
                for s in range(len(x)):
                    distance[h, abs(t - s)] += cost[t, s]
        xs.append(x)
        energies.append((x + added).square().sum(1))
        attended.append(torch.stack([maps[t % heads][t] @ x for t in range(len(x))]))
    x, seen = torch.cat(xs), torch.cat(attended)
    keys = torch.einsum("td,ghd->gth", x, w.k) + w.k_bias[:, None]
    return {
        "mean": x.mean(0),
        "second_moment": x.T @ x / len(x),
        "key_cosine": torch.nn.functional.cosine_similarity(keys[:, None], keys[None], dim=-1).mean(-1),
        "attended_mean": seen.mean(0),
        "attended_moment": seen.T @ seen / len(seen),
        "score_gain": gains / len(x),
        "distance": distance / distance.sum(1, keepdim=True),
        "residual_energy": torch.cat(energies).mean().view(1),
    }


@pytest.mark.parametrize("family", sampled(ENCODERS, ["roberta", "distilbert"]))
def test_collected_equals_plain(family: str, tmp_path: Path) -> None:
    parent, blocks = encoder_parent(family), masked_blocks(padded=True)
    for index, layer in enumerate(collect(parent, blocks, tmp_path, batch_blocks=4)):
        assert layer.tokens == blocks.tokens
        assert layer.cosines.shape == (blocks.ids.shape[1], 0)
        for name, wanted in plain_statistics(parent, blocks, index).items():
            message = name + ": {}"
            torch.testing.assert_close(getattr(layer, name), wanted, rtol=2e-4, atol=1e-5, msg=message.format)
