"""Which learning rates train: a range test (arXiv 1506.01186, section 3.3) with AdamW."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from gqasearch.calibration import no_progress
from gqasearch.healing.blocks import TrainingBlocks
from gqasearch.healing.trainer import Objective, stack

LOWEST, HIGHEST, STEPS = 1e-6, 1e-1, 100
SMOOTHING = 0.8  # weight of the past in the loss that is shown
DIVERGED = 4.0  # times the lowest loss, beyond which nothing more is tried


@dataclass(frozen=True)
class TriedRates:
    """``tried``: learning rate and smoothed loss after a step with it, rising; ``suggested``: where the loss fell
    fastest before its lowest point.
    """

    tried: tuple[tuple[float, float], ...]
    suggested: float


def range_test(
    model: nn.Module,
    objective: Objective,
    data: TrainingBlocks,
    batch_blocks: int,
    *,
    weight_decay: float = 0.0,
    gradient_norm: float = 1.0,
    progress: Callable[[int, int], None] = no_progress,
) -> TriedRates:
    """Train ``model`` (put back afterwards) for up to ``STEPS`` steps, each with a larger learning rate."""
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], weight_decay=weight_decay)
    device = next(model.parameters()).device
    tried: list[tuple[float, float]] = []
    mean = 0.0
    model.train()
    for step, rate in enumerate(np.geomspace(LOWEST, HIGHEST, STEPS)):
        rows = [data[(step * batch_blocks + row) % len(data)] for row in range(batch_blocks)]
        loss = objective(model, {name: tensor.to(device) for name, tensor in stack(rows).items()})
        mean = SMOOTHING * mean + (1 - SMOOTHING) * float(loss.detach())
        smooth = mean / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(smooth) or (tried and smooth > DIVERGED * min(one for _, one in tried)):
            break
        tried.append((float(rate), smooth))
        _step(model, loss, optimizer, float(rate), gradient_norm)
        progress(step + 1, STEPS)
    model.load_state_dict(before)
    return TriedRates(tuple(tried), _suggested(tried))


def _step(
    model: nn.Module, loss: torch.Tensor, optimizer: torch.optim.Optimizer, rate: float, gradient_norm: float
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss.backward()
    if gradient_norm:
        torch.nn.utils.clip_grad_norm_(model.parameters(), gradient_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _suggested(tried: list[tuple[float, float]]) -> float:
    """The rate at the steepest fall before the lowest loss; a tenth of the rate at that, where nothing falls."""
    losses = np.array([loss for _, loss in tried])
    lowest = int(losses.argmin())
    if lowest < 2:
        return tried[lowest][0] / 10
    slopes = np.gradient(losses[: lowest + 1])
    return tried[int(slopes.argmin())][0]
