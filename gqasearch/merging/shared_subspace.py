"""The best shared rows of a group when every head may read them through a matrix of its own."""

from __future__ import annotations

import torch
from torch import Tensor

# Relative floor under which an eigenvalue counts as zero, in float64.
NEGLIGIBLE = 1e-13


class SharedSubspace:
    """Heads y_h = W_h x of size s; a group shares z of size s with y_h ~ P_h z, P_h any (s, s) map.

    ``rows`` W (H, s, D); ``reads`` (H, s, s): an error e of head h costs e^T reads_h e; ``moment``
    E[x x^T] (D, D). With S_h^T S_h = reads_h, z is spanned by the top s eigenvectors of the Gram of the
    S_h y_h over the group (Eckart and Young, 1936), and P_h is the regression of y_h on it.
    """

    def __init__(self, rows: Tensor, reads: Tensor, moment: Tensor) -> None:
        self.rows, self.moment = rows, moment
        values, vectors = torch.linalg.eigh(reads)
        self.scaled = values.clamp_min(0).sqrt()[..., None] * vectors.mT @ rows  # S_h W_h
        flat = self.scaled.flatten(0, 1)
        self.gram = flat @ moment @ flat.T

    def error(self, heads: tuple[int, ...]) -> float:
        """Sum of the discarded eigenvalues."""
        return float(torch.linalg.eigvalsh(self._block(heads))[: -self.rows.shape[1]].clamp_min(0).sum())

    def fit(self, heads: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Rows of z (s, D), of the heads' typical size, and the maps P (n, s, s)."""
        size, own = self.rows.shape[1], self.rows[list(heads)]
        energies, vectors = torch.linalg.eigh(self._block(heads))
        top, energies = vectors[:, -size:], energies[-size:]
        tiny = torch.finfo(energies.dtype).tiny
        shared = top.T @ self.scaled[list(heads)].flatten(0, 1)
        maps = own @ self.moment @ shared.T  # times 1 / energies: the regression of y_h on z
        typical = torch.einsum("hdi,ij,hdj->hd", own, self.moment, own).mean().clamp_min(tiny)
        usable = energies > NEGLIGIBLE * energies[-1].clamp_min(tiny)
        scale = torch.where(usable, (typical / energies.clamp_min(tiny)).sqrt(), 0.0)
        return scale[:, None] * shared, torch.where(usable, maps * scale / typical, 0.0)

    def _block(self, heads: tuple[int, ...]) -> Tensor:
        size = self.rows.shape[1]
        index = torch.cat([torch.arange(h * size, (h + 1) * size) for h in heads]).to(self.gram.device)
        block: Tensor = self.gram[index][:, index]
        return block
