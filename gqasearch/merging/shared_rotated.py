"""The best shared rotated keys of a group when every query head may read them through a matrix of its own.

    minimise over z = sum_h T_h k_h and M_q   sum_q E (q^T R k_h(q) - (M_q q)^T R z)^2

R as in ``positions``. Given z the best M_q is a linear solve of size r, and given all M_q so is the best z:
alternating least squares, from the better of two starts: one complex factor per pair (``SharedPairs``), and
the mean. Every step lowers the error, so it never exceeds theirs.

A search asks for the errors of thousands of groups and the matrices are small, so many groups of one size are
computed at once. Every group is computed by itself in the stack, so that its bits do not depend on what is
computed beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from gqasearch.merging.moments import stack_of
from gqasearch.merging.positions import Turning, TurningSideBySide
from gqasearch.merging.shared_pairs import SharedPairs
from gqasearch.pairwise import FloatArray, IntArray
from gqasearch.threads import pinned, shared_out

# Rounds of the alternation: for the merge itself, and for the error that a search is told.
ROUNDS = 5
SEARCH_ROUNDS = 2
# Relative ridge of the solves: heads that are copies leave directions that nothing reads.
RIDGE = 1e-10
TINY = torch.finfo(torch.float64).tiny
# Numbers in one array over the query heads of a stack of groups on the CPU, 0.5 MB: more leaves its cache.
STACK = 2**16

# Moments with the n heads' keys, (..., n, r), to those with z, (..., r).
Mix: TypeAlias = Callable[[Tensor], Tensor]


class SharedRotated:
    """``gram`` E[k k^T] of the keys (H, H, s, s); ``reads`` (Hq, s, s): E[q q^T] times what a squared error of a score
    costs; both with pairs side by side (``side_by_side``), as the turning takes them. ``turning``: of all r/2 pairs of
    the shared key; ``own`` (s/2,): which of them the heads have.
    """

    def __init__(self, gram: Tensor, reads: Tensor, pairs: SharedPairs, turning: Turning, own: Tensor) -> None:
        shared = turning.side_by_side()
        half = shared.same.shape[-1]
        own = own.to(gram.device)
        self.gram, self.reads, self.pairs, self.own_pairs = gram, reads, pairs, own
        # Of moments of heads with heads, heads with z, z with z.
        mixed = shared.of_pairs(own)
        both = (table[..., own] for table in (mixed.same, mixed.other, mixed.same_back, mixed.other_back))
        self.of_heads, self.of_both, self.of_shared = TurningSideBySide(*both), mixed, shared
        self.size, self.shared_size, self.per_head = gram.shape[-1], 2 * half, len(reads) // len(gram)

    def errors(self, groups: IntArray) -> FloatArray:
        """The groups' errors after ``SEARCH_ROUNDS`` rounds, (N,); ``groups`` (N, n).

        They are no less than those of ``fit``, which goes on to ``ROUNDS``.
        """
        if not self.size:  # no RoPE
            return np.zeros(len(groups))
        step = max(stack_of(self.gram, STACK) // (groups.shape[1] * self.per_head * self.size * self.shared_size), 1)
        stacks = torch.from_numpy(groups).to(self.gram.device).split(step)
        found = shared_out(lambda some: _Groups(self, some).errors_after(SEARCH_ROUNDS), stacks)
        return np.asarray(torch.cat(found).cpu().numpy())

    def fit(self, heads: tuple[int, ...], own: Tensor) -> tuple[Tensor, Tensor]:
        """z (r, D), of the heads' typical size per pair, and M (m, r, s) of the m query heads: q' = M q.

        ``own``: rows W of these heads' keys (n, s, D). Here, pairs are the halves again.
        """
        if not self.size:
            return own[0], own.new_zeros(len(heads) * self.per_head, 0, 0)
        with pinned(1):
            mixing, found = _Groups(self, torch.tensor([heads], device=self.gram.device)).after(ROUNDS)
        order = side_by_side(self.size)
        back = side_by_side(self.shared_size).argsort()
        shared = (mixing[0].mT @ own[:, order].flatten(0, 1))[back]
        maps = found.maps[0].mT[:, back][:, :, order.argsort()]
        typical, size = self._typical_sizes(own), _pair_sizes(shared)
        scale = torch.where((size > 0) & (typical > 0), typical / size.clamp_min(TINY), 1.0).repeat(2)[:, None]
        return shared * scale, maps / scale

    def _typical_sizes(self, own: Tensor) -> Tensor:
        """What the pairs of z should have, (r/2,): those of the heads' pairs of the same frequency."""
        frequencies, joined = self.shared_size // 2 // self.pairs.shared, self.pairs.shared
        sizes: Tensor = _pair_sizes(own).unflatten(1, (frequencies, -1)).square().sum(2).sqrt()
        return sizes.mean(0).repeat_interleave(joined)


def side_by_side(size: int) -> Tensor:
    """Where x_0, y_0, x_1, y_1, ... stand in x_0, x_1, ..., y_0, y_1, ...: (r,)."""
    return torch.arange(size).reshape(2, -1).T.flatten()


@dataclass(frozen=True)
class _Fit:
    """Maps of N groups with m query heads, all transposed: a solve works by columns, and need not copy.

    ``maps`` M^T, ``moved`` (M E[q q^T])^T and ``wanted`` E[R k z^T R^T], (N, m, s, r); ``ridge`` (N, m, 1, 1):
    (E[R z z^T R^T] + ridge) M = wanted^T.
    """

    maps: Tensor
    moved: Tensor
    wanted: Tensor
    ridge: Tensor


class _Groups:
    """The least squares of N groups of n heads, their m query heads; ``heads`` (N, n)."""

    def __init__(self, keys: SharedRotated, heads: Tensor) -> None:
        self.keys, self.heads, self.size = keys, heads, keys.size
        queries = heads[..., None] * keys.per_head + torch.arange(keys.per_head, device=heads.device)
        queries = queries.flatten(1)
        self.reads = keys.reads[queries]
        self.of_both, self.of_shared = keys.of_both.of(queries), keys.of_shared.of(queries)
        blocks = keys.gram[heads[:, :, None], heads[:, None, :]]  # (N, n, n, s, s)
        self.gram = blocks.transpose(2, 3).reshape(len(heads), heads.shape[1] * keys.size, -1)
        own = keys.of_heads.of(queries).forth(self._of_queries(keys.gram[heads, heads]))  # E[R k k^T R^T]
        self.energy = _summed(self.reads * own)

    def after(self, rounds: int) -> tuple[Tensor, _Fit]:
        """T^T (N, n s, r) and the maps, after one round or more from the better start."""
        found = self._better(self._start(self._one_factor_per_pair()), self._start(self._mean))
        for _ in range(rounds):
            mixing = self.best_mixing(found)
            found = self.with_best_maps(cross := self.gram @ mixing, mixing.mT @ cross)
        return mixing, found

    def errors_after(self, rounds: int) -> Tensor:
        """The errors, (N,), after these rounds."""
        if not rounds:
            return torch.minimum(*(self.errors(self._start(mix)) for mix in (self._one_factor_per_pair(), self._mean)))
        return self.errors(self.after(rounds)[1])

    def _start(self, mix: Mix) -> _Fit:
        """The best M for a z whose T is too simple for a product of matrices."""
        heads = self.heads.shape[1]
        cross = mix(self.gram.unflatten(2, (heads, self.size)))
        return self.with_best_maps(cross, mix(cross.mT.unflatten(2, (heads, self.size))))

    def _one_factor_per_pair(self) -> Mix:
        """T of one complex factor per pair; as a real matrix a multiplication by x + iy is [[x, -y], [y, x]]."""
        pairs = self.keys.pairs
        factors = pairs.leading(self.heads).conj() * pairs.roots[self.heads][..., None]  # (N, n, f, own, shared)

        def mix(moments: Tensor) -> Tensor:
            by_pair = torch.view_as_complex(moments.unflatten(3, (-1, pairs.own, 2)).contiguous())
            return torch.view_as_real((by_pair[..., None] * factors[:, None]).sum((2, 4))).flatten(2)

        return mix

    def _mean(self, moments: Tensor) -> Tensor:
        """T of the mean, which of z has the pairs that the heads have."""
        mean = moments.mean(2)
        if self.size == self.keys.shared_size:
            return mean
        wide = mean.new_zeros(*mean.shape[:2], self.keys.shared_size // 2, 2)
        wide[:, :, self.keys.own_pairs] = mean.unflatten(2, (-1, 2))
        return wide.flatten(2)

    def with_best_maps(self, cross: Tensor, own: Tensor) -> _Fit:
        """The best M for a z with E[k z^T] (N, n s, r) and E[z z^T] (N, r, r)."""
        wanted = self.of_both.forth(self._of_queries(cross))
        maps, ridge = _solve(self.of_shared.forth(own[:, None]), wanted)
        return _Fit(maps, self.reads @ maps, wanted, ridge)

    def best_mixing(self, found: _Fit) -> Tensor:
        """The best T^T for these M: what all query heads together want of z."""
        wanted = self.of_both.back(found.moved).unflatten(1, (-1, self.keys.per_head)).sum(2)
        total = self.of_shared.back(found.maps.mT @ found.moved).sum(1)
        return _solve(total, wanted.flatten(1, 2))[0]

    def errors(self, found: _Fit) -> Tensor:
        """sum_q E (q^T R k - (M q)^T R z)^2, (N,): each M being best for its z, what it matches is subtracted once."""
        # The ridge belongs to the normal equations that M solves; without it the difference would be biased by it.
        matched = found.wanted + found.ridge * found.maps
        return (self.energy - _summed(found.moved * matched)).clamp_min(0.0)

    def _better(self, one: _Fit, other: _Fit) -> _Fit:
        """Of every group the fit with the smaller error."""
        # Chosen group by group, without a branch: a stack of any size computes each of its groups alike.
        other_wins = (self.errors(other) < self.errors(one))[:, None, None, None]
        pairs = ((getattr(one, field.name), getattr(other, field.name)) for field in fields(_Fit))
        return _Fit(*(torch.where(other_wins, b, a) for a, b in pairs))

    def _of_queries(self, by_head: Tensor) -> Tensor:
        """Matrices of the heads, (N, n s, c) or (N, n, s, c), for each of their query heads, (N, m, s, c)."""
        matrices = by_head.reshape(len(by_head), -1, self.size, by_head.shape[-1])
        return matrices if self.keys.per_head == 1 else matrices.repeat_interleave(self.keys.per_head, dim=1)


def _solve(matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """right matrix^-1 for positive semidefinite matrices (..., r, r), and their ridge (..., 1, 1), added in place.

    ``right`` (..., k, r).
    """
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    ridge = (RIDGE * diagonal.mean(-1, keepdim=True)).clamp_min(TINY)
    diagonal += ridge
    columns = right.mT
    # The form that does not raise: one group that fails must not stop the others of its stack.
    factor, failed = torch.linalg.cholesky_ex(matrix)
    solution = torch.cholesky_solve(columns, factor)
    if failed.any():  # the rounding of huge factors that cancel can exceed the ridge
        solution[failed > 0] = torch.linalg.solve(matrix[failed > 0], columns[failed > 0])
    return solution.mT, ridge[..., None]


def _summed(numbers: Tensor) -> Tensor:
    """(N, ...) -> (N,)."""
    return numbers.flatten(1).sum(1)


def _pair_sizes(rows: Tensor) -> Tensor:
    """Norm of every pair's weights, (..., r/2)."""
    first, second = rows.unflatten(-2, (2, -1)).unbind(-3)
    return torch.sqrt(first.square().sum(-1) + second.square().sum(-1))
