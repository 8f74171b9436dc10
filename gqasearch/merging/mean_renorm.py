"""Mean with its norm restored: averaging heads that point apart shrinks them; this scales them back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.merging._base import LayerMerge, Merge
from gqasearch.merging.mean import mean_of
from gqasearch.merging.merged_group import MergedGroup
from gqasearch.models import LayerWeights
from gqasearch.models.head_norm import centred


def norm_ratio(merged: Tensor, sources: Tensor) -> Tensor:
    """Mean Frobenius norm of ``sources`` (n, d, D) over that of ``merged`` (d, D); 1 where merged is 0."""
    norm = torch.linalg.vector_norm(merged)
    mean = torch.linalg.vector_norm(sources, dim=(1, 2)).mean()
    return mean / norm if norm > 0 else torch.ones_like(norm)


class MeanRenormLayer(LayerMerge):
    """The mean, scaled so that K and V keep the group's mean weight norm."""

    def merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        own = self.heads(heads)
        group = mean_of(own)
        keys, _ = own.seen_keys
        merged = centred(group.k) if own.centred else group.k
        return group.scaled(norm_ratio(merged, keys), norm_ratio(group.v, own.v))


@dataclass(frozen=True)
class MeanRenorm(Merge):
    """Average the K and V projections of a group, then restore their mean norm."""

    name: ClassVar[str] = "mean-renorm"
    reference: ClassVar[str] = "https://arxiv.org/abs/2305.13245"
    summary: ClassVar[str] = "the mean, scaled back to the group's mean norm"

    def for_layer(self, weights: LayerWeights, statistics: LayerStatistics | None = None) -> MeanRenormLayer:
        return MeanRenormLayer(weights, statistics)
