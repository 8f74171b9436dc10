"""Weighted mean: heads that matter more have a larger share of the average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.merging._base import LayerMerge, Merge, Need, required
from gqasearch.merging.mean import weighted_mean_of
from gqasearch.merging.merged_group import MergedGroup
from gqasearch.merging.moments import like
from gqasearch.merging.score_pairs import query_moments
from gqasearch.models import LayerWeights

HeadWeight = Literal["key-norm", "query-energy"]


class WeightedMeanLayer(LayerMerge):
    """Averages with given weights of every head, ``keys`` and ``values`` (H,)."""

    def __init__(self, weights: LayerWeights, statistics: LayerStatistics | None, keys: Tensor, values: Tensor) -> None:
        super().__init__(weights, statistics)
        self.key_weights, self.value_weights = keys, values

    def merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        shares = (_shares(of[list(heads)]) for of in (self.key_weights, self.value_weights))
        return weighted_mean_of(self.heads(heads), *shares)


def _shares(weights: Tensor) -> Tensor:
    """Weights (n,) to shares of 1; equal ones where all weights are zero."""
    total = weights.sum()
    return weights / total if total > 0 else torch.full_like(weights, 1 / len(weights))


def norms(rows: Tensor, bias: Tensor | None) -> Tensor:
    """Frobenius norm of every head's weights and bias, (H,), float64."""
    squares = torch.stack([head.double().square().sum() for head in rows])
    return (squares if bias is None else squares + bias.double().square().sum(1)).sqrt()


def query_energy(weights: LayerWeights, statistics: LayerStatistics) -> Tensor:
    """E|q|^2 of what enters the scores, summed over the queries of every head, (H,)."""
    moment = like(statistics.moment(weights.has_biases), weights.q)
    return _by_head(query_moments(weights, moment).diagonal(dim1=1, dim2=2).sum(1), weights)


def output_energy(weights: LayerWeights) -> Tensor:
    """||W_o||_F^2, summed over the queries of every head, (H,)."""
    return _by_head(torch.stack([of_query.double().square().sum() for of_query in weights.o]), weights)


def _by_head(of_queries: Tensor, weights: LayerWeights) -> Tensor:
    total: Tensor = of_queries.unflatten(0, (-1, weights.queries_per_kv)).sum(1)
    return total


@dataclass(frozen=True)
class WeightedMean(Merge):
    """Average the K and V projections of a group, each head with its weight.

    ``weight``: "key-norm": K by the Frobenius norm of its weights, V by that of its own; "query-energy": by
    the energy of what reads it, K by E|q|^2 over calibration tokens, V by ||W_o||_F^2.
    """

    name: ClassVar[str] = "weighted-mean"
    reference: ClassVar[str] = "https://arxiv.org/abs/2305.13245"
    summary: ClassVar[str] = "average of K and V, heads weighted by norm or by the energy of what reads them"

    weight: HeadWeight = "key-norm"

    @property
    def needs(self) -> Need:
        return "weights" if self.weight == "key-norm" else "statistics"

    def for_layer(self, weights: LayerWeights, statistics: LayerStatistics | None = None) -> WeightedMeanLayer:
        if self.weight == "key-norm":
            keys, values = norms(*weights.seen_keys), norms(weights.v, weights.v_bias)
        else:
            moments = required(statistics, "weighted-mean with weight=query-energy")
            keys, values = query_energy(weights, moments), output_energy(weights)
        return WeightedMeanLayer(weights, statistics, keys, values)
