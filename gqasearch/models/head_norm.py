"""Norms of single heads, between a head's projection and RoPE.

An RMS norm (Qwen3), or a LayerNorm (Persimmon), which is an RMS norm of what is left of a head y once the mean of its d
dimensions is taken from each:

    LayerNorm(y) = weight * c / sqrt(mean(c^2) + eps) + shift,     c = y - mean(y) = (I - 11^T / d) y

So a LayerNorm sees centred rows of W alone, and what is known of heads under RMS norms holds of those.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeadNorm:
    """``weight`` (d,) of all heads, or (n, d) of n heads each; ``shift`` (d,): what is added last, or None;
    ``centred``: whether it is a LayerNorm.
    """

    weight: Tensor
    shift: Tensor | None = None
    centred: bool = False

    def some(self, heads: slice) -> HeadNorm:
        """The norm of these heads."""
        return self if self.weight.dim() == 1 else replace(self, weight=self.weight[heads])

    def of_first(self) -> HeadNorm:
        """The norm of the first of the heads, as of all."""
        return self if self.weight.dim() == 1 else replace(self, weight=self.weight[0])

    def seen(self, rows: Tensor) -> Tensor:
        """What the norm sees of rows (..., d, D)."""
        return centred(rows) if self.centred else rows

    def scaled(self, rows: Tensor) -> Tensor:
        """The same times the norm's weights, before anything is divided by: rows (n, d, D)."""
        return self.seen(rows) * self.weight[..., None]

    def of(self, heads: Tensor) -> Tensor:
        """The norm of heads (..., n, d), but for its eps."""
        seen = centred(heads, -1) if self.centred else heads
        tiny = torch.finfo(seen.dtype).tiny
        normed = seen * seen.square().mean(-1, keepdim=True).clamp_min(tiny).rsqrt() * self.weight.to(seen)
        return normed if self.shift is None else normed + self.shift.to(seen)


def centred(rows: Tensor, dim: int = -2) -> Tensor:
    """Rows (..., d, D) of heads without the mean over d."""
    return rows - rows.mean(dim, keepdim=True)
