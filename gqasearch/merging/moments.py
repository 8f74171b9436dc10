"""Moments of heads, from their weights and the moment of what they read; few numbers at a time beside the result."""

from __future__ import annotations

import torch
from torch import Tensor

# Rows of weights that are multiplied with a moment at once.
ROWS = 512
# Numbers in one array over a stack of groups on a device other than the CPU, 128 MB: enough to keep it busy.
DEVICE_STACK = 2**24


def like(tensor: Tensor, weights: Tensor) -> Tensor:
    """A statistic where the weights are, float64."""
    return tensor.to(weights.device, torch.float64)


def cross_moments(rows: Tensor, moment: Tensor) -> Tensor:
    """E[y_h y_j^T] of heads y_h = W_h x, (H, H, s, s); ``rows`` W (H, s, D), ``moment`` E[x x^T] (D, D)."""
    heads, size, _ = rows.shape
    gram = rows.new_empty(heads, heads, size, size)
    step = max(1, ROWS // max(size, 1))
    for first in range(0, heads, step):
        some = rows[first : first + step]
        last = first + len(some)
        # Every two heads once: the other half is the transpose.
        product = some.flatten(0, 1) @ moment @ rows[:last].flatten(0, 1).T
        blocks = product.view(len(some), size, last, size).transpose(1, 2)
        gram[first:last, :last] = blocks
        gram[:first, first:last] = blocks[:, :first].transpose(0, 1).mT
    return gram


def stack_of(tensor: Tensor, on_cpu: int) -> int:
    """Numbers in one array over a stack of groups where ``tensor`` is: ``on_cpu``, or what suits a device."""
    return on_cpu if tensor.device.type == "cpu" else DEVICE_STACK
