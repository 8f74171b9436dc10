"""Distances of every kind that breaks solvers, and errors of all their groups."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from gqasearch.searching.problem import FloatArray

KINDS = (
    "points",
    "clusters",
    "additive",
    "any",
    "ties",
    "zeros",
    "duplicates",
    "equal",
    "all zero",
    "tiny",
    "huge",
    "outlier",
)


def make_distances(kind: str, num_heads: int, rng: np.random.Generator) -> FloatArray:
    """Symmetric, not negative, zero diagonal; (H, H)."""
    points = rng.normal(size=(num_heads, 5))
    if kind == "clusters":
        points = rng.normal(size=(3, 5))[rng.integers(3, size=num_heads)] + 0.1 * rng.standard_t(3, size=points.shape)
    if kind == "duplicates":
        points = points[rng.integers(max(1, num_heads // 2), size=num_heads)]
    table = ((points[:, None] - points[None]) ** 2).sum(-1)
    if kind == "additive":
        norm = rng.random(num_heads)
        table = norm[:, None] + norm + 0.02 * rng.random((num_heads, num_heads))
    elif kind == "any":
        table = rng.random((num_heads, num_heads))
    elif kind == "ties":
        table = rng.integers(1, 4, size=table.shape).astype(float)
    elif kind == "zeros":
        table = rng.random(table.shape) * (rng.random(table.shape) < 0.5)
    elif kind in ("equal", "all zero"):
        table = np.full_like(table, 0.3 if kind == "equal" else 0.0)
    elif kind == "outlier":
        table[0, -1] = table[-1, 0] = 1e9
    table *= {"tiny": 1e-8, "huge": 1e8}.get(kind, 1.0)
    upper = np.triu(table, 1)
    return upper + upper.T


def pairwise_errors(distances: FloatArray) -> FloatArray:
    """c(S) of every set, (2^H,) by bit mask; built head by head, without the solvers' code."""
    num_heads = len(distances)
    pairs = np.zeros(1)
    for head in range(num_heads):
        to_head = np.zeros(1)
        for other in range(head):
            to_head = np.concatenate([to_head, to_head + distances[head, other]])
        pairs = np.concatenate([pairs, pairs + to_head])
    sizes = np.bitwise_count(np.arange(2**num_heads))
    return pairs / np.maximum(sizes, 1)


def random_limits(num_heads: int, kind: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """Number of groups, smallest and largest size: AC, EC or bounded, feasible."""
    if kind == 0:
        return int(rng.integers(1, num_heads + 1)), 1, num_heads
    if kind == 1:
        size = int(rng.choice([s for s in range(1, num_heads + 1) if num_heads % s == 0]))
        return num_heads // size, size, size
    num_groups = int(rng.integers(1, num_heads + 1))
    smallest = int(rng.integers(1, num_heads // num_groups + 1))
    largest = int(rng.integers(-(-num_heads // num_groups), num_heads + 1))
    return num_groups, smallest, largest


@st.composite
def problems(draw: st.DrawFn, most: int) -> tuple[FloatArray, tuple[int, int, int], np.random.Generator]:
    """Distances, limits and a generator."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_heads = draw(st.integers(1, most))
    distances = make_distances(draw(st.sampled_from(KINDS)), num_heads, rng)
    return distances, random_limits(num_heads, draw(st.integers(0, 2)), rng), rng
