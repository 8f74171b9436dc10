"""The optimal merge under a per-head RMS norm of queries and keys (Qwen3).

The norm undoes any change of size, so the factor of a head has modulus 1, and a phase must pass the
norm's weights on both sides; where those differ within a pair it is approximate. So keys are fitted
twice, with and without phases, and the fit with the smaller measured error is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.errors import UserError
from gqasearch.merging.error import measured_error
from gqasearch.merging.merged_group import MergedGroup
from gqasearch.merging.optimal_layer import OptimalLayer
from gqasearch.merging.score_pairs import from_pairs, to_pairs
from gqasearch.models import LayerWeights


class OptimalNormedLayer(OptimalLayer):
    """Values as in the linear case; keys with unit factors."""

    def __init__(self, weights: LayerWeights, statistics: LayerStatistics) -> None:
        if weights.has_biases:
            raise UserError("merge optimal does not take a model with both head norms and attention biases")
        super().__init__(weights, statistics)

    def _group_error(self, heads: tuple[int, ...]) -> float:
        return self.measured_error(heads)

    def _merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        v, v_bias, o = self._merge_values(heads)
        _, vectors = torch.linalg.eigh(self._key_block(heads))
        leading = vectors[..., -1].T
        phases = torch.where(leading.abs() > 0, leading / leading.abs().clamp_min(torch.finfo(torch.float64).tiny), 1.0)
        phases = phases * (phases[0].conj() / phases[0].abs())  # the first head keeps its own phase
        plain = self._with_phases(heads, torch.ones_like(phases), v, v_bias, o)
        turned = self._with_phases(heads, phases, v, v_bias, o)
        return min((plain, turned), key=lambda g: measured_error(self.weights, g, heads, self.statistics))

    def _with_phases(
        self, heads: tuple[int, ...], phases: Tensor, v: Tensor, v_bias: Tensor | None, o: Tensor
    ) -> MergedGroup:
        """Least squares for given unit factors (n, d/2): z = sum e_h conj(c_h) k_h / sum e_h."""
        weight = self.energy[list(heads)] / self.energy[list(heads)].sum(0)
        shared = from_pairs(((weight * phases.conj())[..., None] * self.keys[list(heads)]).sum(0))
        return MergedGroup(
            k=_divided(shared, self.weights.k_norm), v=v, q=self._turned_through_norm(heads, phases), o=o, v_bias=v_bias
        )

    def _turned_through_norm(self, heads: tuple[int, ...], phases: Tensor) -> Tensor:
        """Queries (m, d, D) turned after their norm's weight g: W' = (1/g) R g W."""
        w, queries = self.weights, self.queries_of(heads)
        gain = w.q.new_ones(w.q.shape[1]) if w.q_norm is None else w.q_norm
        turn = phases.conj().repeat_interleave(self.source.queries_per_kv, dim=0)[..., None]
        return _divided(from_pairs(turn * to_pairs(w.q[queries] * gain[:, None])), gain)


def _divided(weight: Tensor, norm: Tensor | None) -> Tensor:
    """Rows over the norm's weights (d,); rows whose weight is zero never reach the score and stay."""
    if norm is None:
        return weight
    return weight / torch.where(norm.abs() > 0, norm, 1.0)[:, None]
