"""Layers for the tests of merges: bound merges, copies of one head, and copies that were turned."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from gqasearch.grouping import LayerGrouping
from gqasearch.merging import MERGES, LayerMerge, make_merge
from gqasearch.models import LayerWeights, Parent, layers_replaced, tie_heads
from tests.matrix import thinned
from tests.samples import logits_of, random_blocks, synthetic_statistics
from tests.tiny_models import ALL_FAMILY_NAMES, tiny_parent

# Every merge with every kind of layer.
MATRIX = thinned(sorted(MERGES), ALL_FAMILY_NAMES, always=("optimal",))


def bound(name: str, family: str, seed: int = 0, kv_heads: int | None = None) -> LayerMerge:
    layer = source_layer(family, seed, kv_heads)
    return make_merge(name).for_layer(layer, synthetic_statistics(layer, seed))


def wide(merge: LayerMerge) -> LayerWeights:
    """The layer that a merge is bound to, float64."""
    return merge.source.to(torch.float64)


@cache
def source_layer(family: str, seed: int = 0, kv_heads: int | None = None) -> LayerWeights:
    """Layer 0 of a tiny model with 6 query heads of 8; no test changes it."""
    return tiny_parent(family, seed=seed, kv_heads=kv_heads).layer(0)


def even_norms(parent: Parent) -> None:
    """Make the weights of head norms equal within every RoPE pair, so that a phase commutes with them."""
    layer = parent.layer(0)
    if layer.q_norm is None or layer.k_norm is None:
        return
    half = layer.head_dim // 2
    for norm in (layer.q_norm, layer.k_norm):
        norm[half:] = norm[:half]


def copies(layer: LayerWeights) -> LayerWeights:
    """Every K and V head a copy of the first; queries and outputs stay their own."""
    same = [0] * layer.num_kv_heads

    def pick(heads: Tensor | None) -> Tensor | None:
        return None if heads is None else heads[same]

    return replace(layer, k=layer.k[same], v=layer.v[same], k_bias=pick(layer.k_bias), v_bias=pick(layer.v_bias))


def turned(layer: LayerWeights, seed: int = 0) -> LayerWeights:
    """The same function with every head turned in its own way: float64 arithmetic, the layer's dtype.

    V by a random orthogonal matrix undone in W_o; K by random phases of its RoPE pairs, and a random
    orthogonal matrix of the other dimensions, both undone in W_q.
    """
    generator = torch.Generator().manual_seed(seed)
    wide = layer.to(torch.float64)
    v_maps, k_maps = [], []
    for _ in range(layer.num_kv_heads):
        v_maps.append(orthogonal(layer.v.shape[1], generator))
        k_maps.append(torch.block_diag(*_rotation(layer, generator)))
    turn_v, turn_k, m = torch.stack(v_maps), torch.stack(k_maps), layer.queries_per_kv
    turn_q = turn_k.repeat_interleave(m, 0)

    def bias(turn: Tensor, heads: Tensor | None) -> Tensor | None:
        return None if heads is None else (turn @ heads[..., None])[..., 0]

    return replace(
        wide,
        k=turn_k @ wide.k,
        v=turn_v @ wide.v,
        q=turn_q @ wide.q,
        o=wide.o @ turn_v.mT.repeat_interleave(m, 0),
        k_bias=bias(turn_k, wide.k_bias),
        v_bias=bias(turn_v, wide.v_bias),
        q_bias=bias(turn_q, wide.q_bias),
    ).to(layer.q.dtype)


def _rotation(layer: LayerWeights, generator: torch.Generator) -> list[Tensor]:
    """Blocks of a map that commutes with RoPE: rotations of the pairs (i, i + r/2), anything orthogonal after r."""
    r = layer.rotary_dim
    angle = torch.rand(r // 2, generator=generator, dtype=torch.float64) * 2 * torch.pi
    cos, sin = torch.diag(angle.cos()), torch.diag(angle.sin())
    blocks = [torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])] if r else []
    return blocks + ([orthogonal(layer.head_dim - r, generator)] if r < layer.head_dim else [])


def orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix, float64."""
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return q


def logits_with(parent: Parent, layer: LayerWeights) -> Tensor:
    """Logits of the parent with this layer 0, in the source's shape."""
    with layers_replaced(parent, {0: layer}):
        return logits_of(parent, random_blocks(parent.config["vocab_size"], blocks=3))


def tied(merged: LayerWeights, labels: tuple[int, ...]) -> LayerWeights:
    return tie_heads(merged, LayerGrouping.from_labels(labels), merged.q.shape[0] // len(labels))
