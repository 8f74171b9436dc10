"""Partition problems to compare search methods on: distances between heads, made or measured.

``gaussian``: independent normal heads, nearly equidistant, the hardest to prove. ``clustered``: a centre per
four heads plus Student-t noise of three degrees of freedom. ``weights`` and ``activations``: trained heads of the
embedded model, squared distances of their K and V weights, or of their keys and values on calibration text.
The model has 12 heads in each of 6 layers; problems with other numbers of heads draw from all 72, and the
activations of heads of different layers are compared on the average layer's input.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from gqasearch.budget import Budget
from gqasearch.config import build_config
from gqasearch.fitness import to_numpy
from gqasearch.pairwise import FloatArray
from gqasearch.searching import PairwiseErrors, Problem
from gqasearch.steps import Workspace

KINDS = ("gaussian", "clustered", "weights", "activations")
DIMENSIONS = 256  # of gaussian heads


@dataclass(frozen=True)
class Instance:
    """One layer's partition problem. ``equal_sizes``: EC; else AC with groups of at most twice the mean size."""

    kind: str
    heads: int
    groups: int
    equal_sizes: bool
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind} H={self.heads} G={self.groups} {'EC' if self.equal_sizes else 'AC'} #{self.seed}"

    @property
    def budget(self) -> Budget:
        mean = self.heads // self.groups
        smallest, largest = (mean, mean) if self.equal_sizes else (1, 2 * mean)
        return Budget((self.groups,), self.heads, smallest_group=smallest, largest_group=largest)

    def distances(self) -> FloatArray:
        """(H, H)."""
        return distances(self.kind, self.heads, self.seed)

    def problem(self) -> Problem:
        """For ``run_search``."""
        errors = PairwiseErrors(self.distances())
        return Problem(
            {"error": errors.objective},
            self.budget,
            layer_errors=(errors,),
            similarity=-self.distances()[None],
            norms=norms(self.kind, self.heads, self.seed)[None],
        )


@cache
def distances(kind: str, heads: int, seed: int) -> FloatArray:
    """Squared distances between the heads of an instance, (H, H)."""
    points = head_points(kind, heads, seed)
    return np.stack([((points - point) ** 2).sum(1) for point in points])


@cache
def norms(kind: str, heads: int, seed: int) -> FloatArray:
    """Norms of the heads of an instance, (H,)."""
    return np.asarray(np.linalg.norm(head_points(kind, heads, seed), axis=1))


def head_points(kind: str, heads: int, seed: int) -> FloatArray:
    """Heads as vectors, (H, n), whose squared distances are the errors' D."""
    rng = np.random.default_rng([KINDS.index(kind), heads, seed])
    if kind == "gaussian":
        return rng.normal(size=(heads, DIMENSIONS))
    if kind == "clustered":
        centres = rng.normal(size=(heads // 4, 64))
        return np.asarray(centres[rng.integers(len(centres), size=heads)] + 0.5 * rng.standard_t(3, size=(heads, 64)))
    points = trained_heads(kind)
    return points[rng.choice(len(points), size=heads, replace=False)]


@cache
def trained_heads(kind: str) -> FloatArray:
    """The embedded model's heads, (72, n): K and V weights side by side, or those times C^(1/2)."""
    work = Workspace(build_config({}))
    layers = range(work.parent.geometry.num_layers)
    weights = [work.parent.layer(index) for index in layers]
    if kind == "weights":
        return np.concatenate([_side_by_side(to_numpy(layer.k), to_numpy(layer.v)) for layer in weights])
    moment = sum((to_numpy(work.statistics.layer(index).second_moment) for index in layers), start=np.zeros(1))
    values, vectors = np.linalg.eigh(moment / len(layers))
    root = vectors * np.sqrt(np.maximum(values, 0))  # C = root root^T
    return np.concatenate([_side_by_side(to_numpy(layer.k) @ root, to_numpy(layer.v) @ root) for layer in weights])


def _side_by_side(keys: FloatArray, values: FloatArray) -> FloatArray:
    return np.concatenate([keys.reshape(len(keys), -1), values.reshape(len(values), -1)], axis=1)
