"""How large the rows of keys are that heads share, under a norm over all heads (``gqasearch.models.whole_norm``)."""

from __future__ import annotations

import torch
from torch import Tensor

from gqasearch.grouping import LayerGrouping


def rows_of_tied(rows: Tensor, keys: LayerGrouping) -> Tensor:
    """Rows (H, d, D), every head's in the mean size (square) of its group's; those of a single head keep their bits."""
    labels = torch.tensor(keys.labels, device=rows.device)
    sizes = rows.square().sum(-1)
    sums = sizes.new_zeros(keys.num_groups, sizes.shape[1]).index_add(0, labels, sizes)
    counts = torch.tensor(keys.sizes, device=rows.device).to(sizes)
    means = (sums / counts[:, None])[labels]
    scale = torch.where(sizes == means, 1, (means / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)).sqrt())
    return rows * scale[..., None]
