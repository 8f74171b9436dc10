"""The best shared RoPE pairs of a group when every head may read each through a complex factor of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from gqasearch.merging.shared_subspace import NEGLIGIBLE


class SharedPairs:
    """Pairs k_h, one complex number each; a group shares z with k_h ~ c_h z, c_h complex.

    ``moments`` E[k k^T] of the heads' keys (H, H, r, r), pairs side by side; ``energy`` e (H, r/2): what a unit
    squared error of a pair costs. Per pair the best z is a^H k~ with a the leading eigenvector of the Hermitian
    Gram of k~_h = sqrt(e_h) k_h over the group, and c_h = a_h / sqrt(e_h).
    """

    def __init__(self, moments: Tensor, energy: Tensor) -> None:
        if energy.numel():  # a head that nothing reads has no say, and no infinite factor either
            energy = energy.clamp_min(NEGLIGIBLE * float(energy.max().clamp_min(torch.finfo(energy.dtype).tiny)))
        self.energy, self.roots = energy, energy.sqrt()
        # E[k_h conj(k_j)] of k = x + iy, (r/2, H, H)
        xx, yy, yx, xy = (
            moments[:, :, a::2, b::2].diagonal(dim1=2, dim2=3).permute(2, 0, 1)
            for a, b in ((0, 0), (1, 1), (1, 0), (0, 1))
        )
        roots = self.roots.T
        self.gram = torch.complex(xx + yy, yx - xy) * roots[:, :, None] * roots[:, None, :]

    def leading(self, groups: Tensor) -> Tensor:
        """The eigenvectors a of groups (N, n), (N, n, r/2) complex."""
        heads = groups.to(self.gram.device)
        _, vectors = torch.linalg.eigh(self.gram[:, heads[:, :, None], heads[:, None, :]])  # (r/2, N, n, n)
        leading: Tensor = vectors[..., -1].movedim(0, -1)
        return leading
