"""The basis in which rounding costs least: in closed form, then by descent on the format's own rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gqasearch.basis.cost import WithSteps, rounding_cost
from gqasearch.basis.sample import SideSample
from gqasearch.rounding import CacheFormat
from gqasearch.rounding.hadamard import hadamard, largest_power_of_2

NEGLIGIBLE = 1e-5  # of a mean eigenvalue, added to all
WORST_CONDITION = 1e3  # weights are rounded, too: the inverse of a worse basis would magnify that
HELD_BACK = 4  # one block of so many decides, and is not fitted on


@dataclass(frozen=True)
class Fit:
    """How a basis is descended: ``steps`` of Adam, each on ``batch`` blocks drawn by ``generator``."""

    steps: int
    batch: int
    generator: torch.Generator
    scale_rate: float = 0.1  # of logarithms of scales, and of angles
    matrix_rate: float = 0.01


class PairBasis:
    """One complex factor per pair of the first ``rotary`` dimensions, any matrix on the others.

    That is what RoPE leaves free: dimension i < rotary / 2 pairs with i + rotary / 2.
    """

    def __init__(self, sample: SideSample, rotary: int, spread: bool) -> None:
        self.rotary = rotary
        self._first = closed_form(sample, rotary, spread)
        pairs = rotary // 2
        heads, rest = len(sample.rows), sample.rows.shape[-1] - rotary
        self.logs = _log_scales(sample, rotary).requires_grad_()
        self.angles = torch.zeros(heads, pairs, device=sample.rows.device, requires_grad=True)
        eye = torch.eye(rest, device=sample.rows.device)
        self.change = eye.repeat(heads, 1, 1).requires_grad_()

    def parameters(self, fit: Fit) -> list[dict[str, object]]:
        """For Adam."""
        scales = {"params": [self.logs, self.angles], "lr": fit.scale_rate}
        return [scales, {"params": [self.change], "lr": fit.matrix_rate}]

    def matrix(self) -> Tensor:
        """(G, d, d)."""
        size, r = self._first.shape[-1], self.rotary
        found = self._first.new_zeros(self._first.shape)
        scale = self.logs.exp()
        cosine, sine = torch.diag_embed(scale * self.angles.cos()), torch.diag_embed(scale * self.angles.sin())
        turned = torch.cat([torch.cat([cosine, -sine], 2), torch.cat([sine, cosine], 2)], 1)
        found = torch.nn.functional.pad(turned, (0, size - r, 0, size - r)) if r else found
        if r < size:
            rest = self.change @ self._first[:, r:, r:]
            found = found + torch.nn.functional.pad(rest, (r, 0, r, 0))
        return found


def fitted_basis(sample: SideSample, cache: CacheFormat, rotary: int, order: Tensor, fit: Fit) -> Tensor:
    """The basis (G, d, d) of every head; the identity where nothing is better on the blocks that are held back.

    ``rotary``: how many dimensions RoPE turns, 0 for values; ``order``: see ``rounding_cost``. Of bases that differ by
    a factor it is the one in which rows keep their size.
    """
    blocks = range(sample.rows.shape[1])
    held = [block for block in blocks if block % HELD_BACK == 0]
    shown = [block for block in blocks if block not in held] or held
    fitted, decides = sample.blocks(shown), sample.blocks(held)
    eye = torch.eye(sample.rows.shape[-1], device=sample.rows.device).expand(len(sample.rows), -1, -1)
    found = [eye]
    for spread in (False, True) if rotary < eye.shape[-1] else (False,):
        start = closed_form(fitted, rotary, spread)
        found += [start, descended(fitted, cache, order, PairBasis(fitted, rotary, spread), fit)]
    sized = torch.stack([of_same_size(fitted, basis) for basis in found])  # (n, G, d, d)
    with torch.no_grad():
        costs = torch.stack([rounding_cost(decides, basis, cache, order) for basis in sized])
    whole = torch.isfinite(sized).all(-1).all(-1) & torch.isfinite(costs)
    fine = whole & (torch.linalg.cond(sized.where(whole[..., None, None], eye)) < WORST_CONDITION)
    best = costs.where(fine, torch.inf).argmin(0)
    return sized[best, torch.arange(len(best), device=best.device)]


def descended(sample: SideSample, cache: CacheFormat, order: Tensor, basis: PairBasis, fit: Fit) -> Tensor:
    """``basis`` after the steps, (G, d, d)."""
    optimizer = torch.optim.Adam(basis.parameters(fit))
    rates = [group["lr"] for group in optimizer.param_groups]
    count = sample.rows.shape[1]
    with torch.no_grad():
        first = rounding_cost(sample, basis.matrix(), cache, order).clamp_min(1e-30)
    for step in range(fit.steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / fit.steps)
        drawn = torch.randperm(count, generator=fit.generator)[: fit.batch].tolist()
        with torch.enable_grad(), WithSteps():
            cost = rounding_cost(sample.blocks(drawn), basis.matrix(), cache, order)
            relative = (cost / first).sum()  # every head for itself, of whatever size its errors are
        relative.backward()
        optimizer.step()
        optimizer.zero_grad()
    return basis.matrix().detach()


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


def of_same_size(sample: SideSample, basis: Tensor) -> Tensor:
    """The multiple of ``basis`` (G, d, d) under which rows keep their mean square."""
    turned = torch.einsum("gde,gnte->gntd", basis, sample.rows)
    ratio = sample.rows.square().mean((1, 2, 3)) / turned.square().mean((1, 2, 3)).clamp_min(1e-30)
    return basis * ratio.sqrt()[:, None, None]


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
