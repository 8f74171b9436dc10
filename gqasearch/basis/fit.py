"""The basis in which rounding costs least: in closed form, then by descent on the format's own rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from gqasearch.basis.closed_form import closed_form
from gqasearch.basis.pair_basis import PairBasis
from gqasearch.basis.rounding_cost import WithSteps
from gqasearch.basis.sample import SideSample

# (B (G, d, d), numbers of blocks) -> what rounding costs every head on these blocks, (G,).
Cost: TypeAlias = Callable[[Tensor, Sequence[int]], Tensor]

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


def fitted_basis(sample: SideSample, cost: Cost, rotary: int, fit: Fit) -> Tensor:
    """The basis (G, d, d) of every head that costs least; the identity where nothing is better.

    ``rotary``: how many dimensions RoPE turns, 0 for values. What is found on some of the blocks is compared on the
    others. Of bases that differ by a factor it is the one in which rows keep their size.
    """
    blocks = range(sample.rows.shape[1])
    held = [block for block in blocks if block % HELD_BACK == 0]
    shown = [block for block in blocks if block not in held] or held
    fitted = sample.blocks(shown)
    eye = torch.eye(sample.rows.shape[-1], device=sample.rows.device).expand(len(sample.rows), -1, -1)
    found = [eye]
    for spread in (False, True) if rotary < eye.shape[-1] else (False,):
        start = closed_form(fitted, rotary, spread)
        found += [start, descended(cost, shown, PairBasis(start, rotary), fit)]
    sized = torch.stack([of_same_size(fitted, basis) for basis in found])  # (n, G, d, d)
    with torch.no_grad():
        costs = torch.stack([cost(basis, held) for basis in sized])
    whole = torch.isfinite(sized).all(-1).all(-1) & torch.isfinite(costs)
    fine = whole & (torch.linalg.cond(sized.where(whole[..., None, None], eye)) < WORST_CONDITION)
    best = costs.where(fine, torch.inf).argmin(0)
    return sized[best, torch.arange(len(best), device=best.device)]


def descended(cost: Cost, blocks: Sequence[int], basis: PairBasis, fit: Fit) -> Tensor:
    """``basis`` after the steps, (G, d, d)."""
    rates = (fit.scale_rate, fit.scale_rate, fit.matrix_rate)
    fitted = [(part, rate) for part, rate in zip((basis.logs, basis.angles, basis.change), rates, strict=True)]
    optimizer = torch.optim.Adam([{"params": [part], "lr": rate} for part, rate in fitted if part.numel()])
    rates = tuple(group["lr"] for group in optimizer.param_groups)
    with torch.no_grad():
        first = cost(basis.matrix(), blocks[:: max(1, len(blocks) // (2 * fit.batch))]).clamp_min(1e-30)
    for step in range(fit.steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / fit.steps)
        drawn = torch.randperm(len(blocks), generator=fit.generator)[: fit.batch].tolist()
        with torch.enable_grad(), WithSteps():
            # Every head for itself, of whatever size its errors are.
            relative = (cost(basis.matrix(), [blocks[index] for index in drawn]) / first).sum()
        relative.backward()
        optimizer.step()
        optimizer.zero_grad()
    return basis.matrix().detach()


def of_same_size(sample: SideSample, basis: Tensor) -> Tensor:
    """The multiple of ``basis`` (G, d, d) under which rows keep their mean square."""
    turned = torch.einsum("gde,gnte->gntd", basis, sample.rows)
    ratio = sample.rows.square().mean((1, 2, 3)) / turned.square().mean((1, 2, 3)).clamp_min(1e-30)
    return basis * ratio.sqrt()[:, None, None]
