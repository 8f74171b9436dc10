"""The best shared rotated keys of a group when every query head may read them through a matrix of its own.

    minimise over z = sum_h T_h k_h and M_q   sum_q E (q^T R k_h(q) - (M_q q)^T R z)^2

R as in ``positions``. Given z the best M_q is a linear solve of size r, and given all M_q so is the best z:
alternating least squares, from the better of two starts: one complex factor per pair (``SharedPairs``), and
the mean. Every step lowers the error, so it never exceeds theirs.

A search asks for the errors of thousands of groups and the matrices are small, so many groups of one size are
computed at once, in numpy: torch would spend its time on calls, but for the solves, where it is twice as fast. Every
group is computed by itself in the stack, so that its bits do not depend on what is computed beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from gqasearch.merging.positions import RelativePositions
from gqasearch.merging.shared_pairs import SharedPairs
from gqasearch.pairwise import FloatArray, IntArray

ROUNDS = 5
# Relative ridge of the solves: heads that are copies leave directions that nothing reads.
RIDGE = 1e-10
TINY = np.finfo(np.float64).tiny
# Numbers in one array over the query heads of a stack of groups, 0.5 MB: more leaves the processor's cache.
STACK = 2**16


class SharedRotated:
    """``rows`` W_k (H, r, D); ``reads`` (Hq, r, r): E[q q^T] times what a squared error of a score costs;
    ``moment`` E[x x^T] (D, D).
    """

    def __init__(
        self, rows: Tensor, reads: Tensor, moment: Tensor, pairs: SharedPairs, positions: RelativePositions
    ) -> None:
        self.rows, self.size, self.per_head = rows, rows.shape[1], len(reads) // len(rows)
        # Pairs side by side, as the turning takes them; ``rows`` and what is handed out keep the halves apart.
        self.order = torch.arange(self.size, device=rows.device).reshape(2, -1).T.flatten()
        flat = rows[:, self.order].flatten(0, 1)
        gram = (flat @ moment @ flat.T).reshape(len(rows), self.size, len(rows), self.size)
        self.gram = _array(gram.transpose(1, 2).contiguous())  # E[k k^T] (H, H, r, r)
        self.reads = _array(reads[:, self.order][:, :, self.order])
        self.turning = positions.of(list(range(len(reads)))).side_by_side()
        self.pair_gram, self.pair_roots = pairs.gram.cpu().numpy(), pairs.energy.sqrt().cpu().numpy()

    def errors(self, groups: IntArray) -> FloatArray:
        """The groups' errors after the last round, (N,); ``groups`` (N, n)."""
        if not self.size:  # no RoPE
            return np.zeros(len(groups))
        step = max(STACK // (groups.shape[1] * self.per_head * self.size**2), 1)
        stacks = (_Groups(self, groups[first : first + step]) for first in range(0, len(groups), step))
        return np.concatenate([stack.errors(stack.alternate()) for stack in stacks])

    def fit(self, heads: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """z (r, D), of the heads' typical size per pair, and M (m, r, r) of the m query heads: q' = M q."""
        own = self.rows[list(heads)]
        if not self.size:
            return own[0], own.new_zeros(len(heads) * self.per_head, 0, 0)
        found = _Groups(self, np.array([heads])).alternate()
        back = self.order.argsort()
        shared = (torch.from_numpy(found.mixing[0]).to(own).mT @ own[:, self.order].flatten(0, 1))[back]
        maps = torch.from_numpy(found.maps[0]).to(own).mT[:, back][:, :, back]
        typical, size = _pair_sizes(own).mean(0), _pair_sizes(shared)
        scale = torch.where((size > 0) & (typical > 0), typical / size.clamp_min(TINY), 1.0).repeat(2)[:, None]
        return shared * scale, maps / scale

    def pair_mixing(self, groups: IntArray) -> FloatArray:
        """T^T of one complex factor per pair, as real matrices: a multiplication by x + iy is [[x, -y], [y, x]]."""
        half, pair = self.size // 2, np.arange(self.size // 2)
        _, vectors = np.linalg.eigh(self.pair_gram[:, groups[:, :, None], groups[:, None, :]])  # (r/2, N, n, n)
        factors = np.moveaxis(vectors[..., -1].conj(), 0, -1) * self.pair_roots[groups]  # (N, n, r/2)
        mixing = np.zeros((*groups.shape, half, 2, half), dtype=np.complex128)
        mixing[..., pair, 0, pair], mixing[..., pair, 1, pair] = factors, 1j * factors
        return mixing.view(np.float64).reshape(len(groups), -1, self.size)


@dataclass(frozen=True)
class _Fit:
    """Keys and maps of N groups with m query heads, all transposed: a solve works by columns, and need not copy.

    ``mixing`` T^T (N, n r, r); ``maps`` M^T, ``moved`` (M E[q q^T])^T and ``wanted`` E[R k z^T R^T], (N, m, r, r);
    ``ridge`` (N, m, 1, 1): (E[R z z^T R^T] + ridge) M = wanted^T.
    """

    mixing: FloatArray
    maps: FloatArray
    moved: FloatArray
    wanted: FloatArray
    ridge: FloatArray


class _Groups:
    """The least squares of N groups of n heads, their m query heads; ``heads`` (N, n)."""

    def __init__(self, keys: SharedRotated, heads: IntArray) -> None:
        self.keys, self.heads, self.size = keys, heads, keys.size
        self.by_head = (*heads.shape, keys.per_head, keys.size, keys.size)
        queries = (heads[..., None] * keys.per_head + np.arange(keys.per_head)).reshape(len(heads), -1)
        self.reads, self.turning = keys.reads[queries], keys.turning.of(queries)
        blocks = keys.gram[heads[:, :, None], heads[:, None, :]].swapaxes(2, 3)
        self.gram = blocks.reshape(len(heads), heads.shape[1] * keys.size, -1)
        own = self.turning.forth(self._of_queries(keys.gram[heads, heads]))  # E[R k k^T R^T]
        self.energy = _summed(self.reads * own)

    def alternate(self) -> _Fit:
        """Where the alternation ends from the better start."""
        mean = np.tile(np.eye(self.size), (*self.heads.shape, 1)).reshape(len(self.heads), -1, self.size)
        found = self._better(*map(self.with_best_maps, (self.keys.pair_mixing(self.heads), mean / self.heads.shape[1])))
        for _ in range(ROUNDS):
            found = self.with_best_maps(self.best_mixing(found))
        return found

    def with_best_maps(self, mixing: FloatArray) -> _Fit:
        """The best M for these z."""
        cross = self.gram @ mixing  # E[k z^T], (N, n r, r)
        reading = self.turning.forth((mixing.mT @ cross)[:, None])
        wanted = self.turning.forth(self._of_queries(cross))
        maps, ridge = _solve(reading, wanted)
        return _Fit(mixing, maps, self.reads @ maps, wanted, ridge)

    def best_mixing(self, found: _Fit) -> FloatArray:
        """The best T for these M: what all query heads together want of z."""
        wanted = self.turning.back(found.moved).reshape(self.by_head).sum(2)
        total = self.turning.back(found.maps.mT @ found.moved).sum(1)
        return _solve(total, wanted.reshape(len(wanted), -1, self.size))[0]

    def errors(self, found: _Fit) -> FloatArray:
        """sum_q E (q^T R k - (M q)^T R z)^2, (N,): each M being best for its z, what it matches is subtracted once."""
        matched = found.wanted + found.ridge * found.maps
        return np.asarray(np.maximum(self.energy - _summed(found.moved * matched), 0.0))

    def _better(self, one: _Fit, other: _Fit) -> _Fit:
        """Of every group the fit with the smaller error."""
        other_wins = self.errors(other) < self.errors(one)
        pairs = ((getattr(one, field.name), getattr(other, field.name)) for field in fields(_Fit))
        return _Fit(*(np.where(other_wins.reshape(-1, *[1] * (a.ndim - 1)), b, a) for a, b in pairs))

    def _of_queries(self, by_head: FloatArray) -> FloatArray:
        """Matrices of the heads, (N, n r, r) or (N, n, r, r), for each of their query heads, (N, m, r, r)."""
        matrices = by_head.reshape(len(by_head), -1, self.size, self.size)
        return matrices if self.keys.per_head == 1 else matrices.repeat(self.keys.per_head, axis=1)


def _solve(matrix: FloatArray, right: FloatArray) -> tuple[FloatArray, FloatArray]:
    """right matrix^-1 for positive semidefinite matrices (..., r, r), and their ridge (..., 1, 1), added in place.

    ``right`` (..., k, r).
    """
    size = matrix.shape[-1]
    diagonal = matrix.reshape(*matrix.shape[:-2], -1)[..., :: size + 1]  # a view
    ridge = np.maximum(RIDGE * diagonal.sum(-1, keepdims=True) / size, TINY)
    diagonal += ridge
    left, columns = torch.from_numpy(matrix), torch.from_numpy(right).mT
    factor, failed = torch.linalg.cholesky_ex(left)
    solution = torch.cholesky_solve(columns, factor)
    if failed.any():  # the rounding of huge factors that cancel can exceed the ridge
        solution[failed > 0] = torch.linalg.solve(left[failed > 0], columns[failed > 0])
    return solution.mT.numpy(), ridge[..., None]


def _summed(numbers: FloatArray) -> FloatArray:
    """(N, ...) -> (N,)."""
    return np.asarray(numbers.reshape(len(numbers), -1).sum(1))


def _array(tensor: Tensor) -> FloatArray:
    return tensor.detach().to("cpu", torch.float64).numpy()


def _pair_sizes(rows: Tensor) -> Tensor:
    """Norm of every pair's weights, (..., r/2)."""
    first, second = rows.unflatten(-2, (2, -1)).unbind(-3)
    return torch.sqrt(first.square().sum(-1) + second.square().sum(-1))
