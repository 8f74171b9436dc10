"""Evaluating a population: from the matrix of distances, and from the weights one genome at a time.

The public code of both papers takes the weights of a group's heads, their mean, and the squared distance to it,
for every genome anew. At Llama-2-7B's shape a layer's K and V are 32 heads of 128 x 4,096 each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from experiments.benchmarks.timing import paired
from gqasearch.pairwise import FloatArray, IntArray, pairwise_errors

HEADS, HEAD_DIM, HIDDEN = 32, 128, 4096
GENOMES, GROUPS = 1024, 8
TOLERANCE = 1e-12


def measure(quick: bool) -> pd.DataFrame:
    """One row per dtype of the weights."""
    hidden = 64 if quick else HIDDEN
    rng = np.random.default_rng(0)
    labels = np.array([rng.permutation(np.arange(HEADS) % GROUPS) for _ in range(GENOMES)])
    # K and V side by side, one row per head.
    heads = rng.normal(size=(HEADS, 2 * HEAD_DIM * hidden))
    distances = np.stack([((heads - head) ** 2).sum(1) for head in heads])
    rows = []
    for dtype in (np.float64, np.float32):
        weights: Any = heads.astype(dtype)
        found = paired(
            f"weights in {np.dtype(dtype).name}",
            lambda weights=weights: weight_sharing_error(weights, labels[0]),  # type: ignore[misc]
            lambda: pairwise_errors(distances, labels),
            per_call=GENOMES,
        )
        direct = np.array([weight_sharing_error(weights, row) for row in labels[:4]])
        difference = float(np.abs(pairwise_errors(distances, labels[:4]) / direct - 1).max())
        if dtype == np.float64 and difference > TOLERANCE:
            raise ValueError(f"the two sides differ by {difference}")
        rows.append(
            {
                "baseline": found.name,
                "weights, s per genome": found.baseline,
                "matrix, s per genome": found.candidate,
                "times faster": found.ratio,
                "lowest": found.lowest,
                "highest": found.highest,
                "relative difference": difference,
            }
        )
    return pd.DataFrame(rows)


def weight_sharing_error(heads: FloatArray, labels: IntArray) -> float:
    """Sum over groups of the squared deviation from the group's mean; ``heads`` (H, n)."""
    total = 0.0
    for label in np.unique(labels):
        group = heads[labels == label]
        total += float(np.square(group - group.mean(axis=0)).sum(dtype=np.float64))
    return total


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """As measured."""
    return rows
