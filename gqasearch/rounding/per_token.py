"""Integers per token and head, with a scale and a zero point: the plainest rounding, and what ``4`` means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gqasearch.rounding._base import CacheFormat
from gqasearch.rounding.affine import affine


@dataclass(frozen=True)
class PerToken(CacheFormat):
    """Asymmetric integers of ``bits`` bits: every token of a head has a 16-bit scale and a 16-bit zero point.

    As KIVI rounds values (section 3.2), in one group per head.
    """

    reference: ClassVar[str] = "https://arxiv.org/abs/2402.02750"
    summary: ClassVar[str] = "integers per token and head, a 16-bit scale and zero point each"

    bits: int = 4

    @property
    def name(self) -> str:
        return f"int{self.bits}"

    def round(self, x: Tensor) -> Tensor:
        return affine(x.float(), self.bits).to(x.dtype)

    def rounded_bytes(self, head_dim: int) -> float:
        return head_dim * self.bits / 8 + 4
