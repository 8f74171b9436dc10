"""Walsh-Hadamard rotations, which spread an outlier over the numbers of its block before they are rounded."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache
def _matrix(size: int) -> Tensor:
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    scaled: Tensor = matrix / size**0.5
    return scaled


def hadamard(x: Tensor, size: int) -> Tensor:
    """``x`` (..., d) float32 in blocks of ``size``, a power of 2, times the orthonormal symmetric H: H H = 1."""
    if size == 1:
        return x
    turned: Tensor = x.unflatten(-1, (-1, size)) @ _matrix(size).to(x.device)
    return turned.flatten(-2)


def largest_power_of_2(number: int) -> int:
    """The largest power of 2 that divides it."""
    return number & -number
