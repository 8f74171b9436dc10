"""``QuantizedCache`` of transformers with the backend quanto."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from gqasearch.rounding._base import CacheFormat, flushed_before
from gqasearch.rounding.affine import affine, over_tokens


@dataclass(frozen=True)
class Quanto(CacheFormat):
    """Asymmetric integers in groups of ``group`` numbers, with a scale and a shift in the cache's dtype.

    ``axis`` 0: consecutive numbers, on into the next token where a head is shorter; -1: a channel over consecutive
    tokens. ``residual``: tokens that are rounded together, when as many have come (``residual_length``). Groups of a
    head whose tokens do not fill them end with it; in the cache they go on into the next head.
    """

    reference: ClassVar[str] = "https://huggingface.co/docs/transformers/kv_cache#quantized-cache"
    summary: ClassVar[str] = "transformers' QuantizedCache, backend quanto, the last 128 tokens unrounded"

    bits: Literal[2, 4] = 4
    axis: Literal[0, -1] = 0
    group: int = 64
    residual: int = 128

    @property
    def name(self) -> str:
        return f"quanto{self.bits}"

    def round(self, x: Tensor) -> Tensor:
        rows = x.float() if self.axis == -1 else x.float().flatten(-2)[..., None]
        rounded = over_tokens(rows, self.group, lambda part: affine(part, self.bits, lambda scale: scale))
        return rounded.reshape(x.shape).to(x.dtype)

    def rounded_before(self, tokens: int) -> Tensor:
        return flushed_before(tokens, self.residual)

    def rounded_bytes(self, head_dim: int) -> float:
        return head_dim * (self.bits / 8 + 4 / self.group)
