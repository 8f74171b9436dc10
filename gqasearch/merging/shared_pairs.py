"""The best shared RoPE pairs of a group when every head may read each through a complex factor of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from gqasearch.merging.shared_subspace import NEGLIGIBLE


class SharedPairs:
    """Pairs k_h = u_h x, one complex number each; a group shares z with k_h ~ c_h z, c_h complex.

    ``pairs`` u (H, p, D) complex; ``energy`` e (H, p): what a unit squared error of a pair costs;
    ``moment`` E[x x^T] (D, D). Per pair the best z is a^H k~ with a the leading eigenvector of the Hermitian
    Gram of k~_h = sqrt(e_h) k_h over the group, and c_h = a_h / sqrt(e_h).
    """

    def __init__(self, pairs: Tensor, energy: Tensor, moment: Tensor) -> None:
        self.pairs = pairs
        if energy.numel():  # a head that nothing reads has no say, and no infinite factor either
            energy = energy.clamp_min(NEGLIGIBLE * float(energy.max().clamp_min(torch.finfo(energy.dtype).tiny)))
        self.energy = energy
        scaled = (self.energy.sqrt()[..., None] * pairs).transpose(0, 1)
        self.gram = scaled @ moment.to(scaled.dtype) @ scaled.mH

    def leading(self, heads: tuple[int, ...]) -> Tensor:
        """The eigenvectors a, (n, p) complex."""
        _, vectors = torch.linalg.eigh(self._block(heads))
        leading: Tensor = vectors[..., -1].T
        return leading

    def _block(self, heads: tuple[int, ...]) -> Tensor:
        index = torch.tensor(heads, device=self.gram.device)
        return self.gram[:, index][:, :, index]
