"""Integers between a smallest and a largest value, which are stored with them: what most formats come down to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gqasearch.rounding._base import half


def affine(x: Tensor, bits: int, stored: Callable[[Tensor], Tensor] = half) -> Tensor:
    """``x`` (..., n) float32 as integers of ``bits`` bits of every row.

    ``stored``: what is left of a scale and a minimum when they are stored.
    """
    levels = 2**bits - 1
    low = stored(x.amin(-1, keepdim=True))
    scale = stored((x.amax(-1, keepdim=True) - low) / levels)
    # A row of equal numbers has no scale; every integer then means ``low``.
    steps = ((x - low) / scale.where(scale > 0, 1)).round().clamp(0, levels)
    return steps * scale + low


def over_tokens(x: Tensor, group: int, rule: Callable[[Tensor], Tensor]) -> Tensor:
    """``x`` (..., T, d) by ``rule``, which is given channels over ``group`` tokens, (..., G, d, group).

    Tokens that are left over are a smaller group.
    """
    whole = x.shape[-2] // group * group
    parts = [x[..., :whole, :].unflatten(-2, (-1, group))] if whole else []
    if whole < x.shape[-2]:
        parts.append(x[..., None, whole:, :])
    rounded = [rule(part.transpose(-1, -2)).transpose(-1, -2).flatten(-3, -2) for part in parts]
    return torch.cat(rounded, -2)
