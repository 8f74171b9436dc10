"""Sentence embeddings of a converted encoder, held against its parent's by their cosine."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation.pooling import Pooling
from gqasearch.evaluation.runners import LayerStack


def embed(model: LayerStack, ids: Tensor, mask: Tensor, pooling: Pooling | None = None) -> Tensor:
    """Embeddings (B, D) of a batch (B, T), of length 1, float32 or wider. ``pooling``: the mean, if not given."""
    return (pooling or Pooling())(model.climbed(ids, mask), mask)


def embedding_cosines(
    parent: LayerStack,
    candidates: Mapping[str, LayerStack],
    blocks: TokenBlocks,
    *,
    pooling: Pooling | None = None,
    batch_blocks: int = 8,
) -> dict[str, dict[str, float]]:
    """Mean cosine of every candidate's embeddings to the parent's over the blocks, as ``plain`` text, and as ``masked``
    where the blocks have mask tokens. ``pooling``: see ``embed``.

    Of candidates whose layers are not known, which have no embeddings here, nothing is told.
    """
    known = {name: model for name, model in candidates.items() if model.num_layers}
    found: dict[str, dict[str, float]] = {name: {} for name in known}
    is_masked = not torch.equal(blocks.text, blocks.ids)
    for kind, ids in (("plain", blocks.text), *([("masked", blocks.ids)] if is_masked else [])):
        sums = dict.fromkeys(known, 0.0)
        for rows in torch.arange(len(ids)).split(batch_blocks):
            batch = ids[rows], blocks.mask[rows]
            wanted = embed(parent, *batch, pooling)
            for name, model in known.items():
                sums[name] += float((embed(model, *batch, pooling) * wanted).sum())
        for name, total in sums.items():
            found[name][kind] = total / len(ids)
    return found
