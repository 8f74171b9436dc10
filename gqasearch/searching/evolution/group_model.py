"""A cheap model of what groups cost, fitted to the groups whose errors are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gqasearch.pairwise import FloatArray, IntArray

# The errors of a group's pairs are summed to these powers: low ones tell many small errors from few large ones.
POWERS = (1.0, 0.25, 0.5, 2.0)
DEGREE = 3  # of the polynomial in log n
SHAPE = len(POWERS) + DEGREE + 1  # weights of the two
# Ridge on the weights of powers and size, of the heads, and of the pairs.
RIDGE_SHAPE, RIDGE_HEAD, RIDGE_PAIR = 1e-4, 0.1, 1.0
# Relative floor under errors whose logarithms are taken: heads may be copies.
FLOOR = 1e-9


class GroupModel:
    """Ridge regression of the logarithm of a group's error.

    log error = log(2/n sum_ij e_ij) + sum_p a_p log(sum_ij e_ij^p) + cubic(log n) + (sum_i w_i + sum_ij W_ij) / sqrt(n)

    over the n heads i and the pairs ij of a group, e ``pair_errors`` (H, H), known. Before anything is fitted that is
    2/n sum_ij e_ij, right for a mean merge. All are sums over pairs, which change by
    O(1) when a head comes or goes, so all neighbours of a partition cost O(H^2).
    """

    def __init__(self, pair_errors: FloatArray) -> None:
        heads, largest = len(pair_errors), float(pair_errors.max(initial=0.0))
        self._unit = largest if largest > 0 else 1.0  # float32 has few powers of ten
        positive = np.maximum(pair_errors / self._unit, FLOOR)
        np.fill_diagonal(positive, 0.0)
        self._powers = np.stack([positive**power for power in POWERS])  # (K, H, H)
        self._least = self._powers.max((1, 2), initial=0.0) * FLOOR
        self._upper = np.triu_indices(heads, 1)
        self._pair_errors = pair_errors / self._unit
        ridge = np.repeat([RIDGE_SHAPE, RIDGE_HEAD, RIDGE_PAIR], [SHAPE, heads, len(self._upper[0])])
        self._squares, self._products = np.diag(ridge), np.zeros(len(ridge))
        self._set(np.zeros(SHAPE), np.zeros(heads), np.zeros((heads, heads)))

    def fit(self, members: FloatArray, errors: FloatArray) -> None:
        """To groups ``members`` (N, H), 0 or 1, and their ``errors`` (N,), and all those that it was given before."""
        large = members.sum(1) > 2
        if large.any():
            self._add(members[large], np.maximum(errors[large] / self._unit, FLOOR))
        weights = np.linalg.solve(self._squares, self._products)
        one, two = self._upper
        shape, heads, of_pairs = np.split(weights, [SHAPE, SHAPE + len(self._heads)])
        pairs = np.zeros_like(self._pair_errors)
        pairs[one, two] = pairs[two, one] = of_pairs
        self._set(shape, heads, pairs)

    def _add(self, members: FloatArray, errors: FloatArray) -> None:
        """To the normal equations."""
        sizes = members.sum(1)
        sums = np.log(np.maximum(((members @ self._powers) * members).sum(2) / 2, self._least[:, None])).T
        one, two = self._upper
        each = np.concatenate([members, members[:, one] * members[:, two]], axis=1) / np.sqrt(sizes)[:, None]
        features = np.concatenate([sums, _powers_of_log(sizes), each], axis=1)
        self._squares += features.T @ features
        self._products += features.T @ (np.log(errors) - sums[:, 0] - np.log(2 / sizes))

    def errors(self, members: FloatArray) -> FloatArray:
        """Of groups (N, H), (N,)."""
        sums = ((members @ self._stack) * members).sum(2) / 2
        sums[-2] += members @ self._heads
        return self._errors(sums, members.sum(1).astype(np.int64))

    def neighbours(self, members: FloatArray, labels: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Errors of a partition's groups with heads come or gone, in float32: enough to rank them, and faster.

        ``members`` (G, H), ``labels`` (H,): every head's group. Of the head's group without it, (H,); of the group
        with the head, (H, G); of head i's group with head j in its place, (H, H).
        """
        stack, heads, groups = self._stack.astype(np.float32), len(labels), len(members)
        member = members.astype(np.float32)
        to_group = member @ stack  # (K + 2, G, H): sums over the pairs of a head with a group
        inside = (to_group * member).sum(2) / 2
        inside[-2] += member @ self._heads.astype(np.float32)
        to_group[-2] += self._heads
        left = inside[:, labels] - to_group[:, labels, np.arange(heads)]
        sums = np.empty((len(stack), heads, 1 + groups + heads), dtype=np.float32)
        sums[:, :, 0] = left
        sums[:, :, 1 : 1 + groups] = inside[:, None, :] + to_group.transpose(0, 2, 1)
        sums[:, :, 1 + groups :] = left[:, :, None] + to_group[:, labels, :] - stack
        now = members.sum(1).astype(np.int64)
        sizes = np.repeat(now[labels][:, None], sums.shape[2], axis=1)
        sizes[:, 0] -= 1
        sizes[:, 1 : 1 + groups] = now + 1
        found = self._errors(sums, sizes)
        return found[:, 0], found[:, 1 : 1 + groups], found[:, 1 + groups :]

    def _errors(self, sums: NDArray[np.floating[Any]], sizes: IntArray) -> FloatArray:
        """``sums`` (K + 2, ...): of powers, of weights, and of the errors themselves, over pairs; ``sizes`` (...)."""
        kind, count = sums.dtype, len(POWERS)
        logs = np.log(np.maximum(sums[:count].reshape(count, -1), self._least[:, None].astype(kind)))
        found = self._of_powers.astype(kind) @ logs + self._of_size.astype(kind)[sizes].ravel()
        found += sums[-2].ravel() * self._root.astype(kind)[sizes].ravel()
        found = np.exp(found).reshape(sizes.shape)
        found = np.where(sizes > 2, found, np.where(sizes == 2, sums[-1], 0))
        return found.astype(np.float64) * self._unit

    def _set(self, shape: FloatArray, heads: FloatArray, pairs: FloatArray) -> None:
        """Take these weights, ``shape``: of the powers and of the polynomial; make tables for every size."""
        sizes = np.maximum(np.arange(len(heads) + 2), 1)
        self._of_powers = shape[: len(POWERS)] + np.eye(len(POWERS))[0]
        self._of_size = np.log(2 / sizes) + _powers_of_log(sizes) @ shape[len(POWERS) :]
        self._root = 1 / np.sqrt(sizes)
        self._heads = heads
        self._stack = np.concatenate([self._powers, pairs[None], self._pair_errors[None]])


def _powers_of_log(sizes: FloatArray | IntArray) -> FloatArray:
    """1, log n, ... for every size n, (N, 4)."""
    return np.asarray(np.log(sizes)[:, None] ** np.arange(DEGREE + 1))
