"""A layer with some of its heads twice: the same function, as the copies' W_o is zero.

What is fitted afterwards may give a copy another key, another value and a W_o of its own: see ``second_reads``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gqasearch.models.layer import LayerWeights


def with_copies(weights: LayerWeights, heads: Sequence[int]) -> LayerWeights:
    """``weights`` with copies of these heads after the others, queries included, W_o zero: k, v (H + n, ...)."""
    queries = [query for head in heads for query in weights.queries_of(head)]

    def longer(tensor: Tensor | None, places: Sequence[int]) -> Tensor | None:
        if tensor is None:
            return None
        return torch.cat([tensor, tensor[torch.tensor(places, dtype=torch.long, device=tensor.device)]])

    parts: dict[str, Any] = {name: longer(getattr(weights, name), queries) for name in ("q", "q_bias", "q_norms")}
    parts |= {name: longer(getattr(weights, name), heads) for name in ("k", "k_bias", "k_norms", "v", "v_bias")}
    nothing = weights.o.new_zeros(len(queries), *weights.o.shape[1:])
    return replace(weights, o=torch.cat([weights.o, nothing]), **parts)
