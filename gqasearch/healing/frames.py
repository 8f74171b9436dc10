"""The frame in which a head is nearest to the shared one that it will become.

A rotation of a V head is undone in its W_o, and one of a K head that commutes with RoPE in its W_q (``score_pairs``):
the model stays the same, and the way from a head's own weights to the shared ones becomes short. Rotations are
Procrustes' (arXiv 2412.20677, section 3.2), K's with what its queries become, V's with what its outputs become.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from gqasearch.merging.procrustes import unitary_factor
from gqasearch.merging.score_pairs import from_pairs, to_pairs
from gqasearch.models import LayerWeights, augmented

# Rows (H, n, c) of every head, and the rows that they should come near.
Pair: TypeAlias = tuple[Tensor, Tensor]


def towards(own: LayerWeights, shared: LayerWeights) -> LayerWeights:
    """``own`` in the frame nearest to ``shared``, both source-shaped; it computes the same.

    Keys under a norm (Qwen3) stay as they are: no rotation passes the norm's weights exactly.
    """
    turned = _values_turned(own.to(torch.float64), shared.to(torch.float64))
    if own.k_norm is None:
        turned = _keys_turned(turned, shared.to(torch.float64))
    return turned


def _values_turned(own: LayerWeights, shared: LayerWeights) -> LayerWeights:
    m = own.queries_per_kv
    values = _rows(own.v, own.v_bias), _rows(shared.v, shared.v_bias)
    outputs = _by_head(own.o.mT, m), _by_head(shared.o.mT, m)
    turn = _rotation([values, outputs])
    v, v_bias = _split(turn @ values[0], own.v_bias)
    return replace(own, v=v, v_bias=v_bias, o=own.o @ turn.mT.repeat_interleave(m, dim=0))


def _keys_turned(own: LayerWeights, shared: LayerWeights) -> LayerWeights:
    m, r = own.queries_per_kv, own.rotary_dim
    keys = _rows(own.k, own.k_bias), _rows(shared.k, shared.k_bias)
    queries = _rows(own.q, own.q_bias), _rows(shared.q, shared.q_bias)
    by_head = _by_head(queries[0], m), _by_head(queries[1], m)
    turn = _rotary_rotation([(a[:, :r], b[:, :r]) for a, b in (keys, by_head)])
    if r < own.head_dim:
        rest = _rotation([(a[:, r:], b[:, r:]) for a, b in (keys, by_head)])
        turn = torch.stack([torch.block_diag(*both) for both in zip(turn, rest, strict=True)])
    k, k_bias = _split(turn @ keys[0], own.k_bias)
    q, q_bias = _split(turn.repeat_interleave(m, dim=0) @ queries[0], own.q_bias)
    return replace(own, k=k, k_bias=k_bias, q=q, q_bias=q_bias)


def _rotation(pairs: Sequence[Pair]) -> Tensor:
    """Orthogonal R (H, n, n) with R a nearest to b, for all pairs (a, b) together, each as important."""
    return unitary_factor(torch.stack([b @ a.mT / _size(a, b) for a, b in pairs]).sum(0))


def _rotary_rotation(pairs: Sequence[Pair]) -> Tensor:
    """As ``_rotation`` of rows that RoPE turns: one phase for each of its pairs, as a matrix (H, r, r)."""
    alike = [(to_pairs(b) * to_pairs(a).conj()).sum(-1) / _size(a, b)[..., 0] for a, b in pairs]
    phases = unitary_factor(torch.stack(alike).sum(0)[..., None, None])[..., 0, 0]
    eye = torch.eye(2 * phases.shape[-1], dtype=pairs[0][0].dtype, device=phases.device)
    return from_pairs(phases[..., None] * to_pairs(eye))


def _size(a: Tensor, b: Tensor) -> Tensor:
    """Product of the norms, (H, 1, 1); 1 where one of them is zero."""
    size = torch.linalg.matrix_norm(a, keepdim=True) * torch.linalg.matrix_norm(b, keepdim=True)
    return torch.where(size > 0, size, 1.0)


def _by_head(rows: Tensor, queries_per_kv: int) -> Tensor:
    """Rows of the query heads (Hq, n, c) side by side for every KV head, (H, n, m c)."""
    return rows.unflatten(0, (-1, queries_per_kv)).transpose(1, 2).flatten(2)


def _rows(weight: Tensor, bias: Tensor | None) -> Tensor:
    return augmented(weight, bias, bias is not None)


def _split(rows: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return (rows, None) if bias is None else (rows[..., :-1], rows[..., -1])
