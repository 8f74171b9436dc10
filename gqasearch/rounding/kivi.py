"""KIVI: keys by channel over groups of tokens, values by token over groups of channels, the last tokens unrounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gqasearch.rounding._base import CacheFormat, flushed_before, require_multiple
from gqasearch.rounding.affine import affine, over_tokens


@dataclass(frozen=True)
class Kivi(CacheFormat):
    """Asymmetric integers of ``bits`` bits in groups of ``group`` numbers, a 16-bit scale and zero point each.

    ``residual``: tokens that stay unrounded. Keys are rounded ``residual`` at a time, when as many have come together;
    of values always the last ``residual`` are kept (algorithm 1, and the public code, where the token that fills a
    residual is still read unrounded itself).
    """

    reference: ClassVar[str] = "https://arxiv.org/abs/2402.02750"
    summary: ClassVar[str] = "KIVI: keys by channel, values by token, the last 128 tokens unrounded"

    bits: int = 4
    group: int = 32
    residual: int = 128

    @property
    def name(self) -> str:
        return f"kivi{self.bits}"

    def round(self, x: Tensor) -> Tensor:
        own = x.float()
        if self.role == "v":
            return affine(own.unflatten(-1, (-1, self.group)), self.bits).flatten(-2).to(x.dtype)
        return over_tokens(own, self.group, lambda part: affine(part, self.bits)).to(x.dtype)

    def rounded_before(self, tokens: int) -> Tensor | None:
        if self.role == "k":
            return flushed_before(tokens, self.residual)
        return (torch.arange(tokens) - self.residual).clamp_min(0)

    def rounded_bytes(self, head_dim: int) -> float:
        return head_dim * (self.bits / 8 + 4 / self.group)

    def check(self, head_dim: int) -> None:
        if self.role == "v":
            require_multiple(self.name, head_dim, self.group)
