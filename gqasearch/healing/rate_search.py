"""Which learning rates train: a range test (arXiv 1506.01186, section 3.3) with AdamW."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gqasearch.calibration import no_progress
from gqasearch.healing.trainer import decays, stack
from gqasearch.healing.training_blocks import TrainingBlocks
from gqasearch.healing.training_loss import TrainingLoss

LOWEST, HIGHEST, STEPS = 1e-6, 1e-1, 100
SMOOTHING = 0.8  # weight of the past in what is shown
DIVERGED = 4.0  # times the least that was left, beyond which nothing more is tried


@dataclass(frozen=True)
class TriedRates:
    """``tried``: rising learning rates, and what was left of the loss before the step with each; ``suggested``: where
    most was gained before the least was left.

    What is left is the loss of a batch over that of the untrained model on the same batch, smoothed: batches differ by
    more than a step gains.
    """

    tried: tuple[tuple[float, float], ...]
    suggested: float


def range_test(
    model: nn.Module,
    training_loss: TrainingLoss,
    data: TrainingBlocks,
    batch_blocks: int,
    *,
    weight_decay: float = 0.0,
    gradient_norm: float = 1.0,
    progress: Callable[[int, int], None] = no_progress,
) -> TriedRates:
    """Train ``model`` (put back afterwards) for up to ``STEPS`` steps, each with a larger learning rate."""
    before = copy.deepcopy(model.state_dict())
    batches = [_batch(data, step, batch_blocks, next(model.parameters()).device) for step in range(STEPS)]
    with torch.no_grad():
        untrained = [float(training_loss(model, batch)) for batch in batches]
    trained = [(decays(name, one), one) for name, one in model.named_parameters() if one.requires_grad]
    groups = [  # as the trainer: norms and biases do not decay
        {"params": [one for decaying, one in trained if decaying], "weight_decay": weight_decay},
        {"params": [one for decaying, one in trained if not decaying], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    tried: list[tuple[float, float]] = []
    mean = 0.0
    model.train()
    for step, rate in enumerate(np.geomspace(LOWEST, HIGHEST, STEPS)):
        loss = training_loss(model, batches[step])
        mean = SMOOTHING * mean + (1 - SMOOTHING) * float(loss.detach()) / max(untrained[step], 1e-12)
        smooth = mean / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(smooth) or (tried and smooth > DIVERGED * min(one for _, one in tried)):
            break
        tried.append((float(rate), smooth))
        _step(model, loss, optimizer, float(rate), gradient_norm)
        progress(step + 1, STEPS)
    model.load_state_dict(before)
    return TriedRates(tuple(tried), _suggested(tried))


def _batch(data: TrainingBlocks, step: int, size: int, device: torch.device) -> dict[str, Tensor]:
    rows = [data[(step * size + row) % len(data)] for row in range(size)]
    return {name: tensor.to(device) for name, tensor in stack(rows).items()}


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
    """The rate of the steepest fall; a tenth of the lowest point's, where nothing falls before it."""
    left = np.array([share for _, share in tried])
    lowest = int(left.argmin())
    if lowest < 2:
        return tried[lowest][0] / 10
    slopes = np.gradient(left[: lowest + 1])
    return tried[int(slopes.argmin())][0]
