"""A layer in another basis of its keys and values: the same function, but for rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gqasearch.models import LayerWeights


def in_basis(
    weights: LayerWeights, keys: Tensor, values: Tensor, keys_of: Sequence[int], values_of: Sequence[int]
) -> LayerWeights:
    """The layer whose cache holds B k and B v in place of k and v.

    ``keys``, ``values``: B of every KV head, (G, d, d); those of keys commute with RoPE. ``keys_of``, ``values_of``
    (Hq,): which KV head a query head reads. Queries become B^-T q, and outputs W_o B^-1; computed in float64.
    """
    of_keys, of_values = (torch.tensor(of, device=keys.device) for of in (keys_of, values_of))
    keys, values = keys.double(), values.double()
    asked = torch.linalg.inv(keys).mT[of_keys]
    read = torch.linalg.inv(values)[of_values]

    def turned(basis: Tensor, rows: Tensor | None) -> Tensor | None:
        if rows is None:
            return None
        wide = rows.double() if rows.dim() == 3 else rows.double()[..., None]
        return (basis @ wide).view(rows.shape).to(rows)

    changed: dict[str, Any] = {
        "k": turned(keys, weights.k),
        "k_bias": turned(keys, weights.k_bias),
        "q": turned(asked, weights.q),
        "q_bias": turned(asked, weights.q_bias),
        "v": turned(values, weights.v),
        "v_bias": turned(values, weights.v_bias),
        "o": (weights.o.double() @ read).to(weights.o),
    }
    return replace(weights, **changed)
