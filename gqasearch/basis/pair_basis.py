"""What is free in the basis of a key or a value, as numbers that can be descended."""

from __future__ import annotations

import torch
from torch import Tensor


class PairBasis:
    """One complex factor per pair of the first ``rotary`` dimensions, any matrix on the others, times ``start``.

    That is what RoPE leaves free: dimension i < rotary / 2 pairs with i + rotary / 2. ``start`` (G, d, d): of that form
    itself, so that the factors commute with it.
    """

    def __init__(self, start: Tensor, rotary: int) -> None:
        heads, size = start.shape[:2]
        self.start, self.rotary = start, rotary
        self.logs, self.angles = (
            torch.zeros(heads, rotary // 2, device=start.device, requires_grad=True) for _ in range(2)
        )
        self.change = torch.eye(size - rotary, device=start.device).repeat(heads, 1, 1).requires_grad_()

    def matrix(self) -> Tensor:
        """B (G, d, d)."""
        scale, beyond = self.logs.exp(), self.start.shape[-1] - self.rotary
        cosine, sine = torch.diag_embed(scale * self.angles.cos()), torch.diag_embed(scale * self.angles.sin())
        turned = torch.cat([torch.cat([cosine, -sine], 2), torch.cat([sine, cosine], 2)], 1)
        pairs = torch.nn.functional.pad(turned, (0, beyond, 0, beyond))
        return (pairs + torch.nn.functional.pad(self.change, (self.rotary, 0, self.rotary, 0))) @ self.start
