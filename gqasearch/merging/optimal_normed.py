"""The optimal merge under norms of single heads: RMS norms (Qwen3), or LayerNorms (Persimmon).

The norm undoes any change of size, so the factor of a head has modulus 1, and a phase must pass the
norm's weights on both sides; where those differ within a pair it is approximate, and under a LayerNorm, which takes
the mean from what was turned, always. No matrix of the dimensions that RoPE leaves alone passes either: there the
shared key is an average. So keys are fitted twice, with and without phases, and of these two and the plain mean the one
with the smallest measured error is kept. Norms whose weights every head has for itself are shared first (``one_norm``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gqasearch.merging.error import measured_error
from gqasearch.merging.mean import mean_of
from gqasearch.merging.merged_group import MergedGroup
from gqasearch.merging.moments import like
from gqasearch.merging.one_norm import shared_weights, under_one_norm
from gqasearch.merging.optimal_layer import OptimalLayer
from gqasearch.merging.score_pairs import before_norm, from_pairs, to_pairs, turned_queries
from gqasearch.merging.shared_subspace import NEGLIGIBLE
from gqasearch.models import LayerWeights
from gqasearch.separate_grouping import Side


class OptimalNormedLayer(OptimalLayer):
    """Values as in the linear case; keys with unit factors."""

    fixed_energy: Tensor | None = None

    def _bind_fixed(self, keys: Tensor, reads: Tensor) -> None:
        """What a unit squared error of each dimension costs, (H, s)."""
        energy = reads.diagonal(dim1=1, dim2=2)
        tiny = torch.finfo(energy.dtype).tiny
        self.fixed_energy = energy.clamp_min(NEGLIGIBLE * float(energy.max().clamp_min(tiny)))

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
        found = [self._with_keys(mean, heads, own, of) for of in (torch.ones_like(phases), phases)]
        groups = [replace(group, v=v, v_bias=v_bias, o=o) for group in (*found, mean)]
        return min(groups, key=lambda group: measured_error(self.source, group, heads, self.statistics))

    def _with_keys(self, mean: MergedGroup, heads: tuple[int, ...], own: LayerWeights, phases: Tensor) -> MergedGroup:
        """``mean``, with the least squares key for given unit factors (n, r/2), and its queries.

        z = sum e_h conj(c_h) k_h / sum e_h, and the same without factors in dimensions that are not turned.
        """
        equal, r = own.k.new_full((len(heads),), 1 / len(heads)), own.rotary_dim
        moved = own.k.new_ones(len(heads), own.head_dim)
        if own.k_norms is not None:
            moved = shared_weights(own.k_norms, r, equal)[1]
        own, chosen = under_one_norm(own, equal), list(heads)
        rows = self._key_rows(own, like(self.statistics.moment(own.has_biases), own.k))
        shares = _shares(self.pairs.energy[chosen] * moved[:, : r // 2].square()) * phases.conj()
        parts = [from_pairs((shares[..., None] * to_pairs(rows[:, :r])).sum(0))]
        if self.fixed_energy is not None:
            shares = _shares(self.fixed_energy[chosen] * moved[:, r:].square())
            parts.append((shares[..., None] * rows[:, r:]).sum(0))
        one = own.norm_of_keys
        k = before_norm(torch.cat(parts), one and one.of_first())
        q, q_bias = turned_queries(own, phases, None)
        hidden = own.k.shape[-1]
        k_bias = None if own.k_bias is None else k[:, hidden]
        return replace(mean, k=k[:, :hidden], k_bias=k_bias, q=q, q_bias=q_bias)


def _shares(energy: Tensor) -> Tensor:
    """Over their sum over heads (n, s); equal where that is 0."""
    total = energy.sum(0)
    return torch.where(total > 0, energy / torch.where(total > 0, total, 1), 1 / len(energy))


def _unit(numbers: Tensor) -> Tensor:
    """Complex numbers over their modulus; 1 for zero."""
    size = numbers.abs()
    return torch.where(size > 0, numbers / size.clamp_min(torch.finfo(size.dtype).tiny), 1.0)
