"""``QuantizedCache`` of transformers with the backend HQQ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from gqasearch.rounding._base import CacheFormat, flushed_before
from gqasearch.rounding.affine import over_tokens

# Of the half-quadratic solver, as the package sets them.
NORM, BETA, STEPS = 0.7, 10.0, 20
LARGEST_SCALE = 2e4
EQUAL = 1e-4


@dataclass(frozen=True)
class HQQ(CacheFormat):
    """Half-quadratic quantisation: asymmetric integers whose zero points are fitted, groups of consecutive numbers.

    Zero points minimise sum |x - x'|^0.7 by alternating steps, until the mean error of the whole tensor stops falling.
    ``group``, ``residual``: as quanto's. This is ``axis_key=1, axis_value=1``, which transformers recommends for HQQ;
    with axis 0 a group is made of numbers of all heads and tokens.
    """

    reference: ClassVar[str] = "https://mobiusml.github.io/hqq_blog/"
    summary: ClassVar[str] = "transformers' QuantizedCache, backend hqq, the last 128 tokens unrounded"

    bits: Literal[1, 2, 4, 8] = 4
    group: int = 64
    residual: int = 128

    @property
    def name(self) -> str:
        return f"hqq{self.bits}"

    def round(self, x: Tensor) -> Tensor:
        rows = x.float().flatten(-2)[..., None]
        return over_tokens(rows, self.group, lambda part: _fitted(part, 2**self.bits - 1)).reshape(x.shape).to(x.dtype)

    def rounded_before(self, tokens: int) -> Tensor:
        return flushed_before(tokens, self.residual)

    def rounded_bytes(self, head_dim: int) -> float:
        return head_dim * (self.bits / 8 + 4 / self.group)


def _fitted(x: Tensor, levels: int) -> Tensor:
    """Groups (..., n)."""
    low = x.amin(-1, keepdim=True)
    span = x.amax(-1, keepdim=True) - low
    scale = (levels / span).where(span > EQUAL, 1).clamp_max(LARGEST_SCALE)
    zero, least = -low * scale, float("inf")
    for _ in range(STEPS):
        steps = (x * scale + zero).round().clamp(0, levels)
        error = x - (steps - zero) / scale
        size = error.abs()
        shrunk = (size - size.pow(NORM - 1) / BETA).clamp_min(0) * error.sign()
        zero = (steps - (x - shrunk) * scale).mean(-1, keepdim=True)
        if (mean := float(size.detach().mean())) >= least:
            break
        least = mean
    steps = (x * scale + zero).round().clamp(0, levels)
    return (steps - zero) * (1 / scale)
