"""Pairwise errors of partitions: cost(S) = (1/|S|) sum_{i<j in S} D_ij, for many partitions at once.

Every squared error of a mean merge has this form, with D_ij the squared distance of heads i and j: the
sum over groups is the minimum-sum-of-squares clustering objective, and H x H numbers stand for all weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Elements of one (n, H, H) block: small enough to stay in a core's cache.
BLOCK = 1 << 15


def pairwise_errors(distances: FloatArray, labels: IntArray) -> FloatArray:
    """Errors, (N,), of N partitions given as labels (N, H); distances (H, H) symmetric, zero diagonal.

    Labels are any integers: only which of them are equal counts. Every row is computed by itself, so its
    bits do not depend on the rows beside it.
    """
    count, heads = labels.shape
    errors = np.empty(count, dtype=np.float64)
    step = max(1, BLOCK // (heads * heads))
    for start in range(0, count, step):
        block = labels[start : start + step]
        # The equality mask, not a one-hot product: its cost does not grow with the number of groups.
        same = (block[:, :, None] == block[:, None, :]).astype(np.float64)
        inner = np.einsum("nij,ij->ni", same, distances)
        errors[start : start + step] = (inner / same.sum(axis=2)).sum(axis=1) / 2
    return errors
