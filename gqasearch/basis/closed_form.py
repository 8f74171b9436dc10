"""The basis of least cost where all numbers of a token are rounded by one step: where descent begins."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gqasearch.basis.sample import SideSample
from gqasearch.rounding.hadamard import hadamard, largest_power_of_2

NEGLIGIBLE = 1e-5  # of a mean eigenvalue, added to all


def closed_form(sample: SideSample, rotary: int, spread: bool) -> Tensor:
    """Where all numbers of a token get one step, which follows their mean square, (G, d, d).

    With S = E[x x^T] and R = ``reads`` the cost of B is tr(B S B^T) tr(B^-T R B^-1), least at
    B^T B = S^-1/2 (S^1/2 R S^1/2)^1/2 S^-1/2, the geometric mean of S^-1 and R (Cauchy and Schwarz); for one factor per
    pair |c|^4 = R / S. ``spread``: turned by a Hadamard matrix, so that no number is much larger than others.
    """
    size = sample.rows.shape[-1]
    found = torch.diag_embed(
        torch.nn.functional.pad(_log_scales(sample, rotary).exp().repeat(1, 2), (0, size - rotary))
    )
    if rotary == size:
        return found
    rest = slice(rotary, size)
    rows, reads = sample.rows[..., rest].double(), sample.reads[:, rest, rest].double()
    second = torch.einsum("gnt,gntd,gnte->gde", sample.weight.double(), rows, rows)
    root, inverse = _roots(second)
    middle, _ = _roots(root @ _ridged(reads) @ root)
    basis, _ = _roots(inverse @ middle @ inverse)
    if spread:
        basis = hadamard(basis.mT.float(), largest_power_of_2(size - rotary)).mT
    found[:, rest, rest] = basis.float()
    return found


def _log_scales(sample: SideSample, rotary: int) -> Tensor:
    """log |c| of every pair, (G, r/2), that the closed form gives; their mean is 0."""
    energy = torch.einsum("gnt,gntd->gd", sample.weight, sample.rows.square())[:, :rotary]
    asked = sample.reads.diagonal(dim1=1, dim2=2)[:, :rotary]
    energy, asked = (part.unflatten(1, (2, -1)).sum(1) for part in (energy, asked))
    energy, asked = (part + NEGLIGIBLE * part.mean(1, keepdim=True) + 1e-30 for part in (energy, asked))
    logs: Tensor = (asked / energy).log() / 4
    return logs - logs.mean(1, keepdim=True) if rotary else logs


def _roots(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The square roots of symmetric (G, d, d), ridged, and the roots' inverses."""
    values, vectors = torch.linalg.eigh(_ridged(matrices))
    roots = values.clamp_min(math.ulp(1.0)).sqrt()
    return (vectors * roots[:, None]) @ vectors.mT, (vectors / roots[:, None]) @ vectors.mT


def _ridged(matrices: Tensor) -> Tensor:
    mean = matrices.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    return (matrices + matrices.mT) / 2 + (NEGLIGIBLE * mean + 1e-30) * torch.eye(matrices.shape[-1]).to(matrices)
