"""Medoid: a group shares the K, and the V, of the one head that is nearest to the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.merging._base import LayerMerge, Merge
from gqasearch.merging.mean import weighted_mean_of
from gqasearch.merging.merged_group import MergedGroup
from gqasearch.models import LayerWeights, augmented


class MedoidLayer(LayerMerge):
    """K and V are chosen apart: with queries and outputs unchanged nothing ties one to the other."""

    def merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        own = self.heads(heads)
        keys = augmented(*own.seen_keys, own.k_bias is not None)
        values = augmented(own.v, own.v_bias, own.v_bias is not None)
        return weighted_mean_of(own, _all_on_medoid(keys), _all_on_medoid(values))


def _all_on_medoid(rows: Tensor) -> Tensor:
    """Shares (n,): 1 for the head of ``rows`` (n, d, D) with the least sum of squared distances, else 0.

    Two heads are always equally near; of equals the one with the largest norm is taken.
    """
    distances = torch.stack([(rows - row).square().sum((1, 2)).sum() for row in rows])
    nearest = distances <= distances.min()
    shares = torch.zeros_like(distances)
    shares[torch.where(nearest, rows.square().sum((1, 2)), -1.0).argmax()] = 1.0
    return shares


@dataclass(frozen=True)
class Medoid(Merge):
    """The K, and the V, of the head with the least sum of squared weight distances to its group; of two, the larger."""

    name: ClassVar[str] = "medoid"
    reference: ClassVar[str] = "https://doi.org/10.1002/9780470316801.ch2"
    summary: ClassVar[str] = "K and V of the head that is nearest to the others of its group"

    def for_layer(self, weights: LayerWeights, statistics: LayerStatistics | None = None) -> MedoidLayer:
        return MedoidLayer(weights, statistics)
