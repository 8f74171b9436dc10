"""The best shared rows of a group when every head may read them through a matrix of its own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gqasearch.merging.moments import cross_moments, stack_of
from gqasearch.pairwise import FloatArray, IntArray
from gqasearch.threads import pinned, shared_out

# Relative floor under which an eigenvalue counts as zero, in float64.
NEGLIGIBLE = 1e-13
# Numbers in the Gram matrices that are made at once on the CPU: 16 MB.
STACK = 2**21


class SharedSubspace:
    """Heads y_h = W_h x of size s; a group shares z of size r with y_h ~ P_h z, P_h any (s, r) map.

    ``rows`` W (H, s, D); ``reads`` (H, s, s): an error e of head h costs e^T reads_h e; ``moment``
    E[x x^T] (D, D); ``size`` r, s if not given. With S_h^T S_h = reads_h, z is spanned by the top r eigenvectors of the
    Gram of the S_h y_h over the group (Eckart and Young, 1936), and P_h is the regression of y_h on it.
    """

    def __init__(self, rows: Tensor, reads: Tensor, moment: Tensor, size: int | None = None) -> None:
        self.size = rows.shape[1] if size is None else size
        with pinned(1):  # small matrices: more threads only wait for each other
            values, vectors = torch.linalg.eigh(reads)
        # Moments have no negative eigenvalues; what is below 0 is rounding.
        self.roots = values.clamp_min(0).sqrt()[..., None] * vectors.mT  # S (H, s, s)
        self.gram = cross_moments(self.roots @ rows, moment)  # (H, H, s, s)

    def errors(self, groups: IntArray) -> FloatArray:
        """Sum of the discarded eigenvalues of each group, (N,); ``groups`` (N, n)."""
        width = groups.shape[1] * self.gram.shape[-1]
        if width <= self.size:  # z has room for all that the heads are
            return np.zeros(len(groups))

        def of_some(some: Tensor) -> FloatArray:
            # Ascending: the last r are kept. Errors need no eigenvectors.
            values = torch.linalg.eigvalsh(self._blocks(some))[:, : width - self.size]
            return np.asarray(values.clamp_min(0).cpu().numpy().sum(1))

        stacks = torch.from_numpy(groups).split(max(stack_of(self.gram, STACK) // max(width**2, 1), 1))
        return np.concatenate(shared_out(of_some, stacks))

    def fit(self, heads: tuple[int, ...], own: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of z (r, D), of the heads' typical size, and the maps P (n, s, r).

        ``own``: rows W of these heads (n, s, D); ``moment`` as before.
        """
        with pinned(1):
            energies, vectors = torch.linalg.eigh(self._blocks(torch.tensor([heads]))[0])
        missing = max(0, self.size - len(energies))  # what the heads have in all fits, and leaves room
        top, energies = vectors[:, -self.size :], energies[-self.size :]
        top, energies = (torch.nn.functional.pad(part, (0, missing)) for part in (top, energies))
        tiny = torch.finfo(energies.dtype).tiny
        # Where copies of a head leave a direction without energy, the regression on it would be rounding over rounding.
        usable = energies > NEGLIGIBLE * energies.max().clamp_min(tiny)
        shared = top.T @ (self.roots[list(heads)] @ own).flatten(0, 1)
        moments = torch.where(usable, own @ (moment @ shared.T), 0.0)  # E[y z^T] (n, s, r)
        # How long z is is free, as P undoes it: as long as what it stands for, so that half precision holds both.
        typical = (moments.square() / energies.clamp_min(tiny)).sum(-1).mean().clamp_min(tiny)
        scale = torch.where(usable, (typical / energies.clamp_min(tiny)).sqrt(), 0.0)
        return scale[:, None] * shared, moments * scale / typical

    def _blocks(self, groups: Tensor) -> Tensor:
        """The Gram matrices of groups (N, n), (N, n s, n s)."""
        heads = groups.to(self.gram.device)
        blocks = self.gram[heads[:, :, None], heads[:, None, :]]  # (N, n, n, s, s)
        return blocks.transpose(2, 3).flatten(3, 4).flatten(1, 2)
