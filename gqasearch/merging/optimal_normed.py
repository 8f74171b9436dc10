"""The optimal merge under a per-head RMS norm of queries and keys (Qwen3).

The norm undoes any change of size, so the factor of a head has modulus 1, and a phase must pass the
norm's weights on both sides; where those differ within a pair it is approximate. So keys are fitted
twice, with and without phases, and of these two and the plain mean the one with the smallest measured
error is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.errors import UserError
from gqasearch.merging.error import measured_error
from gqasearch.merging.mean import mean_of
from gqasearch.merging.merged_group import MergedGroup
from gqasearch.merging.moments import like
from gqasearch.merging.optimal_layer import OptimalLayer
from gqasearch.merging.score_pairs import before_norm, from_pairs, to_pairs, turned_queries
from gqasearch.models import LayerWeights
from gqasearch.separate_grouping import Side


class OptimalNormedLayer(OptimalLayer):
    """Values as in the linear case; keys with unit factors."""

    def __init__(self, weights: LayerWeights, statistics: LayerStatistics) -> None:
        if weights.has_biases:
            raise UserError("merge optimal does not take a model with both head norms and attention biases")
        if weights.rotary_dim < weights.head_dim:
            raise UserError(
                "merge optimal does not take a model with head norms and RoPE over a part of the head: no matrix "
                "of the other dimensions passes the norm"
            )
        super().__init__(weights, statistics)

    def _bind_rotated(self, gram: Tensor, reads: Tensor) -> None:
        """Nothing: no matrix passes the norm, but for one factor per pair."""

    def _group_errors(self, groups: Sequence[tuple[int, ...]], side: Side | None) -> list[float]:
        return [self.measured_error(heads, side) for heads in groups]

    def merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        own = self.heads(heads)
        v, v_bias, o = self._merge_values(heads, own)
        phases = _unit(self.pairs.leading(torch.tensor([heads]))[0, ..., 0, 0])
        phases = phases * _unit(phases.sum(0)).conj()  # one phase for all heads is free: turn them least
        mean = mean_of(own)
        keys = [self._keys(heads, own, torch.ones_like(phases)), self._keys(heads, own, phases), (mean.k, mean.q)]
        groups = [MergedGroup(k=k, v=v, q=q, o=o, v_bias=v_bias) for k, q in keys]
        return min(groups, key=lambda group: measured_error(self.source, group, heads, self.statistics))

    def _keys(self, heads: tuple[int, ...], own: LayerWeights, phases: Tensor) -> tuple[Tensor, Tensor]:
        """Least squares for given unit factors (n, d/2): z = sum e_h conj(c_h) k_h / sum e_h; and its queries."""
        energy, moment = self.pairs.energy[list(heads)], like(self.statistics.moment(own.has_biases), own.k)
        pairs = to_pairs(self._key_rows(own, moment))
        shared = ((energy / energy.sum(0) * phases.conj())[..., None] * pairs).sum(0)
        q, _ = turned_queries(own, phases, None)
        return before_norm(from_pairs(shared), own.k_norm), q


def _unit(numbers: Tensor) -> Tensor:
    """Complex numbers over their modulus; 1 for zero."""
    size = numbers.abs()
    return torch.where(size > 0, numbers / size.clamp_min(torch.finfo(size.dtype).tiny), 1.0)
