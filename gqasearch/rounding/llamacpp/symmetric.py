"""q4_0 and q5_0: small integers with a float16 scale per block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gqasearch.rounding._base import half
from gqasearch.rounding.llamacpp._base import BlockFormat, reciprocal


@dataclass(frozen=True)
class Symmetric(BlockFormat):
    """The block's number of largest absolute value to the lowest integer, with its sign in the scale."""

    bits: ClassVar[int]

    def round_blocks(self, x: Tensor) -> Tensor:
        lowest = 1 << (self.bits - 1)
        extreme = x.gather(-1, x.abs().argmax(-1, keepdim=True))
        scale = extreme / -lowest
        # As C truncates: halves go up. The scale is rounded for reading only.
        steps = (x * reciprocal(scale) + (lowest + 0.5)).trunc().clamp_max(2 * lowest - 1)
        return (steps - lowest) * half(scale)


@dataclass(frozen=True)
class Q4_0(Symmetric):  # noqa: N801 - llama.cpp's name
    """4 bits."""

    label: ClassVar[str] = "q4_0"
    block_bytes: ClassVar[int] = 18
    bits: ClassVar[int] = 4


@dataclass(frozen=True)
class Q5_0(Symmetric):  # noqa: N801 - llama.cpp's name
    """5 bits."""

    label: ClassVar[str] = "q5_0"
    block_bytes: ClassVar[int] = 22
    bits: ClassVar[int] = 5
