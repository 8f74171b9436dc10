"""RoPE that turns neighbouring dimensions (2i, 2i + 1) of a head in place of (i, i + r/2), r of them turned.

Everywhere else in gqasearch the pairs' first dimensions come first, then their second ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gqasearch.models.layer import LayerWeights

# What of a layer goes by the dimensions of queries and keys, after that of the heads.
TURNED = ("q", "k", "q_bias", "k_bias", "q_norms", "k_norms")


def halves(heads: Tensor, rotary_dim: int) -> Tensor:
    """Heads as stored (H, d, ...) with the pairs' first dimensions before their second ones; the rest stays."""
    return heads.index_select(1, torch.argsort(neighbours(heads.shape[1], rotary_dim)).to(heads.device))


def neighbours(head_dim: int, rotary_dim: int) -> Tensor:
    """Which dimension, of those in halves, stands at each place as stored, (d,)."""
    order = torch.arange(head_dim)
    order[:rotary_dim] = order[:rotary_dim].unflatten(0, (2, -1)).T.flatten()
    return order


def with_neighbours(weights: LayerWeights, rotary_dim: int) -> LayerWeights:
    """The layer with its queries and keys as stored."""
    order = neighbours(weights.head_dim, rotary_dim).to(weights.k.device)
    present = {name: heads for name in TURNED if (heads := getattr(weights, name)) is not None}
    turned: dict[str, Any] = {name: heads.index_select(1, order) for name, heads in present.items()}
    return replace(weights, **turned)
