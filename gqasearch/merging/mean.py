"""Mean: the GQA paper's conversion, K and V of a group averaged (arXiv 2305.13245, section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.merging._base import LayerMerge, Merge
from gqasearch.merging.merged_group import MergedGroup
from gqasearch.models import LayerWeights


class MeanLayer(LayerMerge):
    """Averages; queries and outputs stay as they are."""

    def _merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        w, index, queries = self.weights, list(heads), self.queries_of(heads)
        return MergedGroup(
            k=w.k[index].mean(0),
            v=w.v[index].mean(0),
            q=w.q[queries],
            o=w.o[queries],
            k_bias=None if w.k_bias is None else w.k_bias[index].mean(0),
            v_bias=None if w.v_bias is None else w.v_bias[index].mean(0),
            q_bias=None if w.q_bias is None else w.q_bias[queries],
        )


@dataclass(frozen=True)
class Mean(Merge):
    """Average the K and V projections of a group."""

    name: ClassVar[str] = "mean"
    reference: ClassVar[str] = "https://arxiv.org/abs/2305.13245"
    summary: ClassVar[str] = "average of the group's K and V (the GQA recipe)"

    def for_layer(self, weights: LayerWeights, statistics: LayerStatistics | None = None) -> MeanLayer:
        return MeanLayer(weights, statistics)
