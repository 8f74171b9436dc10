"""q4_1 and q5_1: small integers with a float16 scale and minimum per block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gqasearch.rounding._base import half
from gqasearch.rounding.llamacpp._base import BlockFormat, reciprocal


@dataclass(frozen=True)
class Asymmetric(BlockFormat):
    """The block's smallest number to 0, its largest to the highest integer."""

    bits: ClassVar[int]

    def round_blocks(self, x: Tensor) -> Tensor:
        low, levels = x.amin(-1, keepdim=True), 2**self.bits - 1
        scale = (x.amax(-1, keepdim=True) - low) / levels
        # Scale and minimum are rounded for reading only.
        steps = ((x - low) * reciprocal(scale) + 0.5).trunc().clamp_max(levels)
        return steps * half(scale) + half(low)


@dataclass(frozen=True)
class Q4_1(Asymmetric):  # noqa: N801 - llama.cpp's name
    """4 bits."""

    label: ClassVar[str] = "q4_1"
    block_bytes: ClassVar[int] = 20
    bits: ClassVar[int] = 4


@dataclass(frozen=True)
class Q5_1(Asymmetric):  # noqa: N801 - llama.cpp's name
    """5 bits."""

    label: ClassVar[str] = "q5_1"
    block_bytes: ClassVar[int] = 24
    bits: ClassVar[int] = 5
