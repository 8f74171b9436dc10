"""iq4_nl: 16 levels that lie closer around zero, and a float16 scale per block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gqasearch.rounding._base import half
from gqasearch.rounding.llamacpp._base import BlockFormat, reciprocal

LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
NOTHING = 1e-15


@dataclass(frozen=True)
class IQ4NL(BlockFormat):
    """The number of largest absolute value to the lowest level; then the scale that fits best, weighed by squares."""

    label: ClassVar[str] = "iq4_nl"
    block_bytes: ClassVar[int] = 18

    def round_blocks(self, x: Tensor) -> Tensor:
        levels = torch.tensor(LEVELS, dtype=torch.float32, device=x.device)
        extreme = x.gather(-1, x.abs().argmax(-1, keepdim=True))
        middles = (levels[1:] + levels[:-1]) / 2
        scaled = (x * reciprocal(extreme / LEVELS[0])).contiguous()
        found = levels[torch.bucketize(scaled, middles, right=True)]
        weight = x.square()
        fit, norm = ((weight * found * value).sum(-1, keepdim=True) for value in (x, found))
        scale = (fit * reciprocal(norm)).where(extreme.abs() >= NOTHING, 0)
        return found * half(scale)
