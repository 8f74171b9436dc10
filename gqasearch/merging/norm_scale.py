"""Under a norm over the keys of all heads merged heads change what all are divided by: one number a layer for that."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gqasearch.models import LayerWeights
from gqasearch.models.row_sizes import rows_of_tied
from gqasearch.models.whole_norm import stored_heads
from gqasearch.separate_grouping import AnyLayer


def with_mean_norms(source: LayerWeights, merged: LayerWeights, layer: AnyLayer, moment: Tensor) -> LayerWeights:
    """``merged`` with its keys and queries times what their norms divide by more than the source's do, on average.

    ``moment`` (D, D): E[x x^T] of tokens as the source's norms scale them. A layer in which nothing shares is left as
    it is.
    """
    if source.k_rows is None or source.k_gain is None or source.q_rows is None or source.q_gain is None:
        return merged
    if layer.keys.num_groups == layer.keys.num_heads:
        return merged
    labels = torch.tensor(layer.keys.labels, device=merged.k.device)
    k, _ = stored_heads(merged.k[labels], rows_of_tied(source.k_rows, layer.keys), source.k_gain)
    q, _ = stored_heads(merged.q, source.q_rows, source.q_gain)
    more_k, more_q = (
        (_energy(now, moment) / _energy(before, moment)).sqrt()
        for now, before in ((k, source.k_rows), (q, source.q_rows))
    )
    return replace(merged, k=merged.k * more_k.to(merged.k), q=merged.q * more_q.to(merged.q))


def _energy(rows: Tensor, moment: Tensor) -> Tensor:
    """Sum of E[(row x)^2]."""
    flat = rows.flatten(0, 1).double()
    return ((flat @ moment) * flat).sum()
