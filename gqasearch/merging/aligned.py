"""Aligned: turn the heads of a group towards each other, then average (arXiv 2412.20677).

A rotation of a V head can be undone in its W_o, and one of a K head in its W_q if it commutes with RoPE. So
heads are first turned to agree on calibration activations, by generalised Procrustes in the metric
C = E[x x^T]: values by a full orthogonal matrix, keys by one unit complex factor per RoPE pair and, in
dimensions that RoPE leaves alone, by a full orthogonal matrix in the metric of the covariance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.merging._base import Merge, Need, required
from gqasearch.merging.aligned_layer import AlignedLayer
from gqasearch.models import LayerWeights


@dataclass(frozen=True)
class Aligned(Merge):
    """Average K and V of a group after Procrustes alignment; never a larger error than the plain mean's."""

    name: ClassVar[str] = "aligned"
    reference: ClassVar[str] = "https://arxiv.org/abs/2412.20677"
    summary: ClassVar[str] = "average after rotating heads onto each other, undone in W_q and W_o"

    @property
    def needs(self) -> Need:
        return "statistics"

    def for_layer(self, weights: LayerWeights, statistics: LayerStatistics | None = None) -> AlignedLayer:
        return AlignedLayer(weights, required(statistics, self.name))
