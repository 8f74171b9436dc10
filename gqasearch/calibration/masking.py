"""Mask tokens in a text, always at the same places, for models that predict what is masked (arXiv 1810.04805)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from gqasearch.calibration.predictions import NO_TARGET

SHARE = 0.15


def masked(
    ids: Tensor, mask: Tensor, mask_token: int, special: Collection[int], blocks: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Blocks (N, T) with ``SHARE`` of each one's tokens masked, at least one; and labels (N, T) with these tokens.

    ``special``: tokens that are never masked. Which are follows from the block's own tokens alone: the same block has
    the same masks in whatever text, on every machine. All chosen tokens become the mask token: none is
    left or replaced by another as in training, so that every prediction is of something that the model does not see.
    ``blocks``: the share of blocks that are masked; the others stay plain text.
    """
    hidden, labels = ids.clone(), torch.full_like(ids, NO_TARGET)
    ordinary = mask & ~torch.isin(ids, torch.tensor(sorted(special), dtype=ids.dtype))
    for row, (tokens, may) in enumerate(zip(ids, ordinary, strict=True)):
        if _place(tokens[mask[row]]) >= blocks:
            continue
        places = may.nonzero()[:, 0]
        chosen = places[_order(tokens[mask[row]], len(places))[: max(1, round(SHARE * len(places)))]]
        labels[row, chosen] = tokens[chosen]
        hidden[row, chosen] = mask_token
    return hidden, labels


def _digest(tokens: Tensor) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(tokens.numpy(), dtype="<i8").tobytes()).digest()


def _place(tokens: Tensor) -> float:
    """A number from 0 to below 1, spread evenly, that depends on ``tokens`` alone."""
    return int.from_bytes(_digest(tokens)[-4:], "little") / 2**32


def _order(tokens: Tensor, count: int) -> Tensor:
    """A permutation of ``count`` that depends on ``tokens`` alone: by a hash of both, so that no library's random
    numbers can change it.
    """
    text = _digest(tokens)
    hashes = [hashlib.sha256(text + place.to_bytes(8, "little")).digest() for place in range(count)]
    return torch.tensor(sorted(range(count), key=hashes.__getitem__), dtype=torch.int64)
