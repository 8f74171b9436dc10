"""The best shared rotated keys of a group when every query head may read them through a matrix of its own.

    minimise over z = sum_h T_h k_h and M_q   sum_q E (q^T R k_h(q) - (M_q q)^T R z)^2

R as in ``positions``. Given z the best M_q is a linear solve of size r, and given all M_q so is the best z:
alternating least squares, from the better of two starts: one complex factor per pair (``SharedPairs``), and
the mean. Every step lowers the error, so it never exceeds theirs.

A search asks for the error of thousands of groups and the matrices are small, so this is numpy: torch would
spend its time on calls.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gqasearch.merging.positions import RelativePositions, Turning
from gqasearch.merging.shared_pairs import SharedPairs

Array: TypeAlias = NDArray[np.float64]

ROUNDS = 5
# Relative ridge of the solves: heads that are copies leave directions that nothing reads.
RIDGE = 1e-10
TINY = np.finfo(np.float64).tiny


class SharedRotated:
    """``rows`` W_k (H, r, D); ``reads`` (Hq, r, r): E[q q^T] times what a squared error of a score costs;
    ``moment`` E[x x^T] (D, D).
    """

    def __init__(
        self, rows: Tensor, reads: Tensor, moment: Tensor, pairs: SharedPairs, positions: RelativePositions
    ) -> None:
        self.rows, self.pairs = rows, pairs
        self.size, self.per_head = rows.shape[1], len(reads) // len(rows)
        flat = rows.flatten(0, 1)
        self.gram, self.reads = _array(flat @ moment @ flat.T), _array(reads)  # E[k k^T] (H r, H r)
        self.turning = positions.of(list(range(len(reads)))).as_arrays()
        self.pair_gram, self.pair_roots = pairs.gram.cpu().numpy(), pairs.energy.sqrt().cpu().numpy()

    def error(self, heads: tuple[int, ...]) -> float:
        """The group's error after the last round."""
        return self._alternate(heads)[2]

    def fit(self, heads: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """z (r, D), of the heads' typical size per pair, and M (m, r, r) of the m query heads: q' = M q."""
        mixing, maps, _ = self._alternate(heads)
        own = self.rows[list(heads)]
        shared = torch.from_numpy(mixing).to(own) @ own.flatten(0, 1)
        typical, size = _pair_sizes(own).mean(0), _pair_sizes(shared)
        scale = torch.where((size > 0) & (typical > 0), typical / size.clamp_min(TINY), 1.0).repeat(2)[:, None]
        return shared * scale, torch.from_numpy(maps).to(own) / scale

    def _alternate(self, heads: tuple[int, ...]) -> tuple[Array, Array, float]:
        """T side by side (r, n r), M (m, r, r) and the error."""
        if not self.size:  # no RoPE
            return np.zeros((0, 0)), np.zeros((len(heads) * self.per_head, 0, 0)), 0.0
        group = _Group(self, heads)
        mean = np.tile(np.eye(self.size), len(heads)) / len(heads)
        found = min((group.with_best_maps(start) for start in (self._pair_mixing(heads), mean)), key=lambda one: one[2])
        for _ in range(ROUNDS):
            found = group.with_best_maps(group.best_mixing(found[1]))
        return found

    def _pair_mixing(self, heads: tuple[int, ...]) -> Array:
        """T of one complex factor per pair, as real matrices: a multiplication by x + iy is [[x, -y], [y, x]]."""
        index, half = np.array(heads), self.size // 2
        _, vectors = np.linalg.eigh(self.pair_gram[:, index[:, None], index])
        factors = vectors[..., -1].T.conj() * self.pair_roots[index]
        mixing, pair = np.zeros((self.size, len(heads), self.size)), np.arange(half)
        for slot, factor in enumerate(factors):
            mixing[pair, slot, pair] = mixing[pair + half, slot, pair + half] = factor.real
            mixing[pair + half, slot, pair] = factor.imag
            mixing[pair, slot, pair + half] = -factor.imag
        return mixing.reshape(self.size, -1)


class _Group:
    """The least squares of one group: n heads, their m query heads."""

    def __init__(self, keys: SharedRotated, heads: tuple[int, ...]) -> None:
        self.size, self.per_head = keys.size, keys.per_head
        index = (np.array(heads)[:, None] * keys.size + np.arange(keys.size)).ravel()
        queries = (np.array(heads)[:, None] * keys.per_head + np.arange(keys.per_head)).ravel()
        self.gram, self.reads = keys.gram[index[:, None], index], keys.reads[queries]
        self.turning: Turning[Array] = keys.turning.of(queries)
        slots = np.arange(len(heads))
        self.owner = slots.repeat(keys.per_head)
        own = self._blocks(self.gram.reshape(len(heads), keys.size, -1))[slots, slots]
        self.keys = self.turning.forth(own[self.owner])  # E[R k k^T R^T]

    def _blocks(self, wide: Array) -> Array:
        """(..., r, n r) as n blocks, (..., n, r, r)."""
        return np.moveaxis(wide.reshape(*wide.shape[:-1], -1, self.size), -2, -3)

    def with_best_maps(self, mixing: Array) -> tuple[Array, Array, float]:
        """T, the best M for this z, and sum_q E (q^T R k - (M q)^T R z)^2."""
        cross = mixing @ self.gram  # E[z k^T], (r, n r)
        reading, wanted = self.turning.forth(cross @ mixing.T), self.turning.forth(self._blocks(cross)[self.owner])
        maps = _solve(reading, wanted)
        left = self.keys + maps.mT @ (reading @ maps - 2 * wanted)
        return mixing, maps, max(float((self.reads * left).sum()), 0.0)

    def best_mixing(self, maps: Array) -> Array:
        """The best T for these M: what all query heads together want of z."""
        moved = maps @ self.reads
        wanted = self.turning.back(moved).reshape(-1, self.per_head, self.size, self.size).sum(1)
        total = self.turning.back(moved @ maps.mT).sum(0)
        return _solve(total, np.moveaxis(wanted, 0, 1).reshape(self.size, -1))


def _solve(matrix: Array, right: Array) -> Array:
    """matrix^-1 right for positive semidefinite matrices (..., r, r)."""
    size = matrix.shape[-1]
    ridge = np.maximum(RIDGE * np.trace(matrix, axis1=-2, axis2=-1) / max(size, 1), TINY)
    return np.linalg.solve(matrix + ridge[..., None, None] * np.eye(size), right)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().to("cpu", torch.float64).numpy()


def _pair_sizes(rows: Tensor) -> Tensor:
    """Norm of every pair's weights, (..., r/2)."""
    first, second = rows.unflatten(-2, (2, -1)).unbind(-3)
    return torch.sqrt(first.square().sum(-1) + second.square().sum(-1))
