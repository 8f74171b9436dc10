"""The best shared RoPE pairs of a group when every head may read each through a complex factor of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from gqasearch.merging.shared_subspace import NEGLIGIBLE


class SharedPairs:
    """Pairs k_h, one complex number each; a group shares z with k_h ~ c_h z, c_h complex.

    ``moments`` E[k k^T] of the heads' keys (H, H, s, s), pairs side by side; ``energy`` e (H, s/2): what a unit
    squared error of a pair costs. Per pair the best z is a^H k~ with a the leading eigenvector of the Hermitian
    Gram of k~_h = sqrt(e_h) k_h over the group, and c_h = a_h / sqrt(e_h).

    Where frequencies come several times, ``own`` times in a head and ``shared`` times in z, a factor is a matrix of
    these numbers, and the best z of a frequency are as many leading eigenvectors.
    """

    def __init__(self, moments: Tensor, energy: Tensor, own: int = 1, shared: int = 1) -> None:
        if energy.numel():  # a head that nothing reads has no say, and no infinite factor either
            energy = energy.clamp_min(NEGLIGIBLE * float(energy.max().clamp_min(torch.finfo(energy.dtype).tiny)))
        self.energy, self.own, self.shared = energy, own, shared
        self.roots = energy.sqrt().unflatten(1, (-1, own))  # by frequency, (H, f, own)
        # E[k_h conj(k_j)] of k = x + iy by frequency, (f, H, own, H, own)
        xx, yy, yx, xy = (
            moments[:, :, a::2, b::2]
            .unflatten(3, (-1, own))
            .unflatten(2, (-1, own))
            .diagonal(dim1=2, dim2=4)
            .permute(4, 0, 2, 1, 3)
            for a, b in ((0, 0), (1, 1), (1, 0), (0, 1))
        )
        roots = self.roots.movedim(1, 0)
        self.gram = torch.complex(xx + yy, yx - xy) * roots[:, :, :, None, None] * roots[:, None, None]

    def leading(self, groups: Tensor) -> Tensor:
        """Eigenvectors a of groups (N, n), as many of every frequency as z has: (N, n, f, own, shared)."""
        heads = groups.to(self.gram.device)
        blocks = self.gram[:, heads[:, :, None], :, heads[:, None, :]]  # (N, n, n, f, own, own)
        _, vectors = torch.linalg.eigh(blocks.permute(3, 0, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3))
        leading = vectors[..., -self.shared :].flip(-1)
        leading = torch.nn.functional.pad(leading, (0, self.shared - leading.shape[-1]))
        by_head: Tensor = leading.unflatten(2, (-1, self.own)).permute(1, 2, 0, 3, 4)
        return by_head
