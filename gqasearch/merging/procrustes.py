"""Generalised orthogonal Procrustes: turn several heads towards their common mean (Gower, 1975).

Heads y_h of size s; unitary Q_h that minimise sum_h E||Q_h^* y_h - z||^2, z their mean; this is to maximise
sum_hj Re tr(Q_h^* G_hj Q_j) with G_hj = E[y_h y_j^*]. For given others the best Q_h is the unitary factor
of sum_{j != h} G_hj Q_j, so no step lowers the objective.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_SWEEPS = 100
TOLERANCE = 1e-7  # relative growth of the objective in one sweep


def align(gram: Tensor) -> Tensor:
    """Unitary Q (b, n, s, s) for ``gram`` (b, n, s, n, s), real or complex: b problems of n heads of size s.

    Started from the identity and from the unitary factors of the blocks of the leading eigenvectors; for each
    problem the better end is kept, so the result is never worse than no alignment. Of all Q that differ by one
    common factor, which changes nothing, those that turn the heads least: their sum is positive semi-definite.
    """
    b, n, s = gram.shape[:3]
    still = torch.eye(s, dtype=gram.dtype, device=gram.device).expand(b, n, s, s)
    if not gram.numel():
        return still
    leading = torch.linalg.eigh(gram.flatten(3).flatten(1, 2))[1][..., -s:]
    starts = torch.stack([still, unitary_factor(leading.unflatten(1, (n, s)))])  # (2, b, n, s, s)
    ends, values = _climb(gram, starts)
    best = ends[values.argmax(0), torch.arange(b, device=gram.device)]
    return best @ unitary_factor(best.sum(1, keepdim=True)).mH


def unitary_factor(matrix: Tensor) -> Tensor:
    """The unitary matrix nearest to ``matrix`` (..., s, s)."""
    left, _, right = torch.linalg.svd(matrix)
    nearest: Tensor = left @ right
    return nearest


def _climb(gram: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Sweeps from ``maps`` (2, b, n, s, s) until no objective (2, b) grows; the maps and the objectives.

    Heads take turns from the largest down, not by their labels: what they are called does not matter.
    """
    energy = torch.einsum("bhxhx->h", gram).real
    maps, value = maps.clone(), _objective(gram, maps)
    for _ in range(MAX_SWEEPS):
        for head in energy.argsort(descending=True, stable=True).tolist():
            pull = torch.einsum("bxjy,abjyz->abxz", gram[:, head], maps) - gram[:, head, :, head] @ maps[:, :, head]
            maps[:, :, head] = unitary_factor(pull)
        before, value = value, _objective(gram, maps)
        if bool((value - before <= TOLERANCE * value.abs()).all()):
            break
    return maps, value


def _objective(gram: Tensor, maps: Tensor) -> Tensor:
    """sum_hj Re tr(Q_h^* G_hj Q_j), (2, b)."""
    pulls = torch.einsum("bhxjy,abjyz->abhxz", gram, maps)
    return (maps.conj() * pulls).real.sum((-3, -2, -1))
