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
    A problem's result has the same bits whatever problems are beside it, on one machine.
    """
    b, n, s = gram.shape[:3]
    still = torch.eye(s, dtype=gram.dtype, device=gram.device).expand(b, n, s, s)
    if not gram.numel():
        return still
    # Heads take turns from the largest down, not by their labels: what they are called does not matter.
    order = torch.einsum("bhxhx->bh", gram).real.argsort(dim=1, descending=True, stable=True)
    problem = torch.arange(b, device=gram.device)[:, None]
    sorted_ = gram[problem, order].transpose(1, 3)[problem, order].transpose(1, 3)
    leading = torch.linalg.eigh(sorted_.flatten(3).flatten(1, 2))[1][..., -s:]
    starts = torch.stack([still, unitary_factor(leading.unflatten(1, (n, s)))])  # (2, b, n, s, s)
    ends, values = _climb(sorted_, starts)
    best = torch.empty_like(still, memory_format=torch.contiguous_format)
    best[problem, order] = ends[values.argmax(0), problem[:, 0]]
    # A copy of the factor for every head: spread by the product itself, that of one problem would stay a transposed
    # view and those of several be copied, which some processors' libraries multiply in different orders.
    common = unitary_factor(best.sum(1, keepdim=True)).mH.expand_as(best)
    return best @ common.clone(memory_format=torch.contiguous_format)


def unitary_factor(matrix: Tensor) -> Tensor:
    """The unitary matrix nearest to ``matrix`` (..., s, s)."""
    if matrix.shape[-1] == 1:  # so it is where keys are turned, pair by pair: 20 times faster than the general case
        return _over_absolute_value(matrix)
    left, _, right = torch.linalg.svd(matrix)
    nearest: Tensor = left @ right
    return nearest


def _over_absolute_value(numbers: Tensor) -> Tensor:
    """Each number over its absolute value; 1 for 0. By real arithmetic, whose bits do not depend on what is beside."""
    if not numbers.is_complex():
        return torch.where(numbers == 0, 1.0, numbers.sign())
    parts = torch.view_as_real(numbers)
    size = (parts[..., 0].square() + parts[..., 1].square()).sqrt()
    return torch.where(size > 0, torch.view_as_complex(parts / size[..., None]), 1.0)


def _climb(gram: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Sweeps from ``starts`` (2, b, n, s, s), each until its objective grows no more; maps and objectives (2, b)."""
    maps, grams = starts.flatten(0, 1).clone(), torch.cat([gram, gram])
    values = _objective(grams, maps)
    growing = torch.arange(len(maps), device=maps.device)
    for _ in range(MAX_SWEEPS):
        turned, values_before = _sweep(grams[growing], maps[growing]), values[growing]
        maps[growing] = turned
        values[growing] = now = _objective(grams[growing], turned)
        growing = growing[now - values_before > TOLERANCE * now.abs()]
        if not len(growing):
            break
    return maps.view_as(starts), values.view(starts.shape[:2])


def _sweep(gram: Tensor, maps: Tensor) -> Tensor:
    """Every head once, the best for the others as they are then: ``maps`` (p, n, s, s)."""
    for head in range(maps.shape[1]):
        towards = gram[:, head].flatten(2) @ maps.flatten(1, 2) - gram[:, head, :, head] @ maps[:, head]
        maps[:, head] = unitary_factor(towards)
    return maps


def _objective(gram: Tensor, maps: Tensor) -> Tensor:
    """sum_hj Re tr(Q_h^* G_hj Q_j), (p,)."""
    pulls = gram.flatten(3).flatten(1, 2) @ maps.flatten(1, 2)
    return (maps.flatten(1, 2).conj() * pulls).real.sum((-2, -1))
