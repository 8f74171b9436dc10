"""Sentence embeddings of an encoder: the mean over its tokens of what leaves the last layer, of length 1.

As sentence-transformers pools (arXiv 1908.10084). A converted encoder's are held against its parent's by their cosine.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation.runners import LayerStack


def embed(model: LayerStack, ids: Tensor, mask: Tensor) -> Tensor:
    """Embeddings (B, D) of a batch (B, T), float32 or wider."""
    hidden = model.climbed(ids, mask)
    counted = mask.to(hidden.device)[..., None]
    mean = (hidden.float() * counted).sum(1) / counted.sum(1)
    return torch.nn.functional.normalize(mean, dim=-1)


def embedding_cosines(
    parent: LayerStack, candidates: Mapping[str, LayerStack], blocks: TokenBlocks, *, batch_blocks: int = 8
) -> dict[str, dict[str, float]]:
    """Mean cosine of every candidate's embeddings to the parent's over the blocks, as ``plain`` and as ``masked`` text.

    Of candidates whose layers are not known, which have no embeddings here, nothing is told.
    """
    known = {name: model for name, model in candidates.items() if model.num_layers}
    found: dict[str, dict[str, float]] = {name: {} for name in known}
    for kind, ids in (("plain", blocks.text), ("masked", blocks.ids)):
        sums = dict.fromkeys(known, 0.0)
        for rows in torch.arange(len(ids)).split(batch_blocks):
            batch = ids[rows], blocks.mask[rows]
            wanted = embed(parent, *batch)
            for name, model in known.items():
                sums[name] += float((embed(model, *batch) * wanted).sum())
        for name, total in sums.items():
            found[name][kind] = total / len(ids)
    return found
