"""Keys and queries as complex numbers, one per RoPE frequency pair.

RoPE rotates dimension ``i`` with dimension ``i + r/2``: as the complex number k_i + j k_{i + r/2} a key at
position p is multiplied by exp(j p theta_i). The score of a query and a key is the sum over pairs of
Re(q_i conj(k_i) exp(j (p_q - p_k) theta_i)); only what commutes with that rotation, one complex factor
per pair, can be moved from keys to queries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gqasearch.models import augmented


def to_pairs(weight: Tensor) -> Tensor:
    """Real rows (..., d, D) to complex rows (..., d/2, D)."""
    half = weight.shape[-2] // 2
    return torch.complex(weight[..., :half, :].contiguous(), weight[..., half:, :].contiguous())


def from_pairs(pairs: Tensor) -> Tensor:
    """Complex rows (..., d/2, D) to real rows (..., d, D)."""
    return torch.cat([pairs.real, pairs.imag], dim=-2)


def effective_pairs(weight: Tensor, bias: Tensor | None, norm: Tensor | None, moment: Tensor) -> Tensor:
    """Complex weights (n, d/2, D or D+1) of what enters the score, from ``weight`` (n, d, D).

    ``moment`` is E[x x^T], augmented when the model has biases. Without a head norm this is the
    weight itself. An RMS norm is linearised: divided by the head's root mean square over tokens and
    multiplied by the norm's weight (d,).
    """
    full = augmented(weight, bias, moment.shape[0] == weight.shape[-1] + 1)
    if norm is None:
        return to_pairs(full)
    energy = torch.einsum("ndi,ij,ndj->n", full, moment, full) / weight.shape[-2]
    return to_pairs(full * norm[:, None] / energy.clamp_min(torch.finfo(full.dtype).tiny).sqrt()[:, None, None])


def pair_moments(left: Tensor, right: Tensor, moment: Tensor) -> Tensor:
    """E[l conj(r)] per pair, (..., d/2), for complex weights (..., d/2, D) and E[x x^T]."""
    return ((left @ moment.to(left.dtype)) * right.conj()).sum(-1)
