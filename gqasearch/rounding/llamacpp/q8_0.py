"""q8_0: 8-bit integers, symmetric, a float16 scale per block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gqasearch.rounding._base import half
from gqasearch.rounding.llamacpp._base import BlockFormat


@dataclass(frozen=True)
class Q8_0(BlockFormat):  # noqa: N801 - llama.cpp's name
    """The block's largest absolute value to 127."""

    label: ClassVar[str] = "q8_0"
    block_bytes: ClassVar[int] = 34

    def round_blocks(self, x: Tensor) -> Tensor:
        largest = x.abs().amax(-1, keepdim=True)
        return (x * (127 / largest).where(largest > 0, 0)).round() * half(largest / 127)
