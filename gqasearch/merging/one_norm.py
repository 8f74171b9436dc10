"""Heads whose norms have weights of their own (StableLM, Cohere) under one norm of keys, which a group shares.

A key is g_h * n_h, with n_h what the norm makes of W_h x before its weights g_h (d,). Of these weights, whatever passes
RoPE goes into the norms of the queries, exactly: one real factor for both dimensions of a pair, any factor of a
dimension that is not turned. What is left differs between heads within pairs alone: it is averaged.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gqasearch.models import LayerWeights


def under_one_norm(own: LayerWeights, shares: Tensor) -> LayerWeights:
    """The n heads ``own`` with one ``k_norms`` for all, (n, d) still, and ``q_norms`` that read keys under it.

    ``shares`` (n,), summing to 1: how much a head counts. The same function where the heads' weights differ by factors
    that pass RoPE. Heads that share their weights from the start stay as they are.
    """
    if own.k_norms is None or own.q_norms is None:
        return own
    shared, moved = shared_weights(own.k_norms, own.rotary_dim, shares)
    return replace(
        own,
        k_norms=shared.expand_as(own.k_norms),
        q_norms=own.q_norms * moved.repeat_interleave(own.queries_per_kv, dim=0),
    )


def shared_weights(weights: Tensor, rotary_dim: int, shares: Tensor) -> tuple[Tensor, Tensor]:
    """One norm's weights (d,) in place of ``weights`` (n, d), and the factors (n, d) that go into the queries."""
    factors = _movable(weights, rotary_dim)
    size = shares @ factors.abs()
    left = shares @ torch.where(factors == 0, 1, weights / torch.where(factors == 0, 1, factors))
    return size * left, torch.where(size > 0, factors / torch.where(size > 0, size, 1), 1)


def _movable(weights: Tensor, rotary_dim: int) -> Tensor:
    """What of the weights (n, d) passes RoPE: of a pair the root mean square, with the sign of its sum."""
    pairs = weights[:, :rotary_dim].unflatten(1, (2, -1))
    size = pairs.square().mean(1).sqrt() * torch.where(pairs.sum(1) < 0, -1, 1)
    return torch.cat([size, size, weights[:, rotary_dim:]], dim=1)
