"""The frame in which a head's K and V are nearest to the shared ones that they will become.

A rotation of a V head is undone in its W_o, and one of a K head that commutes with RoPE in its W_q (``score_pairs``):
the model stays the same, and the way from a head's own weights to the shared ones becomes short. Rotations are
Procrustes' (arXiv 2412.20677), of the weights as they are. What W_q and W_o will become is not looked at: bringing
those near as well made the models half way three times worse.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gqasearch.merging.procrustes import unitary_factor
from gqasearch.merging.score_pairs import from_pairs, to_pairs
from gqasearch.models import LayerWeights, augmented


def towards(own: LayerWeights, shared: LayerWeights) -> LayerWeights:
    """``own`` in the frame nearest to ``shared``, both source-shaped; it computes the same. In float64.

    Keys under a norm (Qwen3) stay as they are: no rotation passes the norm's weights exactly.
    """
    own, shared = own.to(torch.float64), shared.to(torch.float64)
    turned = _values_turned(own, shared)
    return turned if own.norm_of_keys is not None else _keys_turned(turned, shared)


def _values_turned(own: LayerWeights, shared: LayerWeights) -> LayerWeights:
    values = _rows(own.v, own.v_bias)
    turn = _rotation(values, _rows(shared.v, shared.v_bias))
    v, v_bias = _split(turn @ values, own.v_bias)
    return replace(own, v=v, v_bias=v_bias, o=own.o @ turn.mT.repeat_interleave(own.queries_per_kv, dim=0))


def _keys_turned(own: LayerWeights, shared: LayerWeights) -> LayerWeights:
    r, keys, target = own.rotary_dim, _rows(own.k, own.k_bias), _rows(shared.k, shared.k_bias)
    turn = _rotary_rotation(keys[:, :r], target[:, :r])
    if r < own.head_dim:
        rest = _rotation(keys[:, r:], target[:, r:])
        turn = torch.stack([torch.block_diag(*both) for both in zip(turn, rest, strict=True)])
    k, k_bias = _split(turn @ keys, own.k_bias)
    q, q_bias = _split(turn.repeat_interleave(own.queries_per_kv, dim=0) @ _rows(own.q, own.q_bias), own.q_bias)
    return replace(own, k=k, k_bias=k_bias, q=q, q_bias=q_bias)


def _rotation(rows: Tensor, target: Tensor) -> Tensor:
    """Orthogonal R (H, n, n) with R rows nearest to target, (H, n, c) both."""
    return unitary_factor(target @ rows.mT)


def _rotary_rotation(rows: Tensor, target: Tensor) -> Tensor:
    """As ``_rotation`` of rows that RoPE turns: one phase for each of its pairs, as a matrix (H, r, r)."""
    alike = (to_pairs(target) * to_pairs(rows).conj()).sum(-1)
    phases = unitary_factor(alike[..., None, None])[..., 0, 0]
    eye = torch.eye(2 * phases.shape[-1], dtype=rows.dtype, device=rows.device)
    return from_pairs(phases[..., None] * to_pairs(eye))


def _rows(weight: Tensor, bias: Tensor | None) -> Tensor:
    return augmented(weight, bias, bias is not None)


def _split(rows: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return (rows, None) if bias is None else (rows[..., :-1], rows[..., -1])
