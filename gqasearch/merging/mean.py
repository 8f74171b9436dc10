"""Mean: the GQA paper's conversion, K and V of a group averaged (arXiv 2305.13245, section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.merging._base import LayerMerge, Merge
from gqasearch.merging.merged_group import MergedGroup
from gqasearch.models import LayerWeights


def weighted_mean_of(
    weights: LayerWeights, heads: tuple[int, ...], key_shares: Tensor, value_shares: Tensor
) -> MergedGroup:
    """K and V averaged with these shares (n,), each summing to 1; queries and outputs stay as they are."""
    index = list(heads)
    queries = [query for head in heads for query in weights.queries_of(head)]

    def mean(tensor: Tensor, shares: Tensor) -> Tensor:
        average: Tensor = torch.tensordot(shares, tensor[index], dims=1)
        return average

    return MergedGroup(
        k=mean(weights.k, key_shares),
        v=mean(weights.v, value_shares),
        q=weights.q[queries],
        o=weights.o[queries],
        k_bias=None if weights.k_bias is None else mean(weights.k_bias, key_shares),
        v_bias=None if weights.v_bias is None else mean(weights.v_bias, value_shares),
        q_bias=None if weights.q_bias is None else weights.q_bias[queries],
    )


def mean_of(weights: LayerWeights, heads: tuple[int, ...]) -> MergedGroup:
    """The plain average of ``heads``."""
    equal = weights.k.new_full((len(heads),), 1 / len(heads))
    return weighted_mean_of(weights, heads, equal, equal)


class MeanLayer(LayerMerge):
    """Averages; queries and outputs stay as they are."""

    def _merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        return mean_of(self.weights, heads)


@dataclass(frozen=True)
class Mean(Merge):
    """Average the K and V projections of a group."""

    name: ClassVar[str] = "mean"
    reference: ClassVar[str] = "https://arxiv.org/abs/2305.13245"
    summary: ClassVar[str] = "average of the group's K and V (the GQA recipe)"

    def for_layer(self, weights: LayerWeights, statistics: LayerStatistics | None = None) -> MeanLayer:
        return MeanLayer(weights, statistics)
