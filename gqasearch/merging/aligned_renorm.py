"""Aligned with its norm restored: heads still differ after alignment, and their average is shorter than they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.merging._base import Merge, Need, required
from gqasearch.merging.aligned_layer import AlignedRenormLayer
from gqasearch.models import LayerWeights


@dataclass(frozen=True)
class AlignedRenorm(Merge):
    """``aligned``, then K and V scaled to the mean over the group of sqrt(E||k||^2) and sqrt(E||v||^2)."""

    name: ClassVar[str] = "aligned-renorm"
    reference: ClassVar[str] = "https://arxiv.org/abs/2412.20677"
    summary: ClassVar[str] = "the aligned average, scaled back to the group's mean norm on calibration tokens"

    @property
    def needs(self) -> Need:
        return "statistics"

    def for_layer(self, weights: LayerWeights, statistics: LayerStatistics | None = None) -> AlignedRenormLayer:
        return AlignedRenormLayer(weights, required(statistics, self.name))
