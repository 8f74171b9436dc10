"""Mean: the GQA paper's conversion, K and V of a group averaged (arXiv 2305.13245, section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.merging._base import LayerMerge, Merge
from gqasearch.merging.merged_group import MergedGroup
from gqasearch.merging.one_norm import under_one_norm
from gqasearch.models import LayerWeights


def weighted_mean_of(own: LayerWeights, key_shares: Tensor, value_shares: Tensor) -> MergedGroup:
    """K and V of the n heads ``own`` averaged with these shares (n,), each summing to 1; the rest stays as it is, but
    for norms that heads do not share yet.
    """
    own = under_one_norm(own, key_shares)

    def mean(tensor: Tensor, shares: Tensor) -> Tensor:
        average: Tensor = torch.tensordot(shares, tensor, dims=1)
        return average

    return MergedGroup(
        k=mean(own.k, key_shares),
        v=mean(own.v, value_shares),
        q=own.q,
        o=own.o,
        k_bias=None if own.k_bias is None else mean(own.k_bias, key_shares),
        v_bias=None if own.v_bias is None else mean(own.v_bias, value_shares),
        q_bias=own.q_bias,
        k_norms=None if own.k_norms is None else own.k_norms[0],
        q_norms=own.q_norms,
    )


def mean_of(own: LayerWeights) -> MergedGroup:
    """The plain average of the heads ``own``."""
    equal = own.k.new_full((len(own.k),), 1 / len(own.k))
    return weighted_mean_of(own, equal, equal)


class MeanLayer(LayerMerge):
    """Averages; queries and outputs stay as they are."""

    def merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        return mean_of(self.heads(heads))


@dataclass(frozen=True)
class Mean(Merge):
    """Average the K and V projections of a group."""

    name: ClassVar[str] = "mean"
    reference: ClassVar[str] = "https://arxiv.org/abs/2305.13245"
    summary: ClassVar[str] = "average of the group's K and V (the GQA recipe)"

    def for_layer(self, weights: LayerWeights, statistics: LayerStatistics | None = None) -> MeanLayer:
        return MeanLayer(weights, statistics)
