"""16-bit floats: what engines cache when nothing is rounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gqasearch.rounding._base import CacheFormat


@dataclass(frozen=True)
class HalfPrecision(CacheFormat):
    """IEEE's float16, or bfloat16 with its shorter mantissa."""

    reference: ClassVar[str] = "https://ieeexplore.ieee.org/document/8766229"
    summary: ClassVar[str] = "16-bit floats, nothing else"

    kind: Literal["f16", "bf16"] = "f16"

    @property
    def name(self) -> str:
        return self.kind

    def round(self, x: Tensor) -> Tensor:
        return x.to(torch.float16 if self.kind == "f16" else torch.bfloat16).to(x.dtype)

    def rounded_bytes(self, head_dim: int) -> float:
        return 2 * head_dim
