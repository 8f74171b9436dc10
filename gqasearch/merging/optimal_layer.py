"""The arithmetic of the optimal merge for heads without norms; see ``optimal``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.merging._base import LayerMerge
from gqasearch.merging.merged_group import MergedGroup
from gqasearch.merging.positions import RelativePositions
from gqasearch.merging.score_pairs import (
    centred_moment,
    effective_rows,
    mapped_queries,
    pair_moments,
    to_pairs,
)
from gqasearch.merging.shared_pairs import SharedPairs
from gqasearch.merging.shared_rotated import SharedRotated
from gqasearch.merging.shared_subspace import SharedSubspace
from gqasearch.models import LayerWeights, augmented


class OptimalLayer(LayerMerge):
    """Gram matrices of all heads, computed once; a group is a sub-matrix and its eigenvectors."""

    def __init__(self, weights: LayerWeights, statistics: LayerStatistics) -> None:
        super().__init__(weights, statistics)
        self.statistics: LayerStatistics = statistics
        w, r = self.weights, weights.rotary_dim
        self.moment = statistics.moment(w.has_biases).to(w.q)
        attended = statistics.attended(w.has_biases).to(w.q)
        self.values = SharedSubspace(augmented(w.v, w.v_bias, w.has_biases), self._value_reads(), attended)
        keys = effective_rows(w.k, w.k_bias, w.k_norm, self.moment)
        queries = effective_rows(w.q, w.q_bias, w.q_norm, self.moment)
        cost = statistics.score_gain.to(w.q) / w.score_divisor
        self.pairs = SharedPairs(to_pairs(keys[:, :r]), self._pair_energy(queries[:, :r], cost), self.moment)
        reads = cost[:, None, None] * (queries[:, :r] @ self.moment @ queries[:, :r].mT)
        positions = RelativePositions(statistics, w.q, r)
        self.rotated = SharedRotated(keys[:, :r], reads, self.moment, self.pairs, positions)
        self.fixed: SharedSubspace | None = None
        if r < w.head_dim:
            reads = cost[:, None, None] * (queries[:, r:] @ self.moment @ queries[:, r:].mT)
            centred = centred_moment(statistics, w.has_biases).to(w.q)
            self.fixed = SharedSubspace(keys[:, r:], self._by_head(reads), centred)

    def _by_head(self, of_queries: Tensor) -> Tensor:
        """Sum over the queries of every head, (Hq, ...) -> (H, ...)."""
        total: Tensor = of_queries.unflatten(0, (-1, self.source.queries_per_kv)).sum(1)
        return total

    def _value_reads(self) -> Tensor:
        """What an error of a value costs: sum over the head's queries of W_o^T W_o, (H, dv, dv)."""
        return self._by_head(self.weights.o.mT @ self.weights.o)

    def _pair_energy(self, queries: Tensor, cost: Tensor) -> Tensor:
        """e (H, r/2): what a unit squared error of a key pair costs at any position; 1/2 is the mean of cos^2."""
        pairs = to_pairs(queries)
        return self._by_head(pair_moments(pairs, pairs, self.moment).real * cost[:, None] / 2)

    def _group_errors(self, groups: Sequence[tuple[int, ...]]) -> list[float]:
        errors = np.zeros(len(groups))
        of_size: dict[int, list[int]] = {}
        for row, heads in enumerate(groups):
            of_size.setdefault(len(heads), []).append(row)
        for rows in of_size.values():
            same = np.array([groups[row] for row in rows])
            fixed = 0.0 if self.fixed is None else self.fixed.errors(same)
            errors[rows] = self.values.errors(same) + self.rotated.errors(same) + fixed
        return [float(error) for error in errors]

    def _merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        v, v_bias, o = self._merge_values(heads)
        k, k_bias, q, q_bias = self._merge_keys(heads)
        return MergedGroup(k=k, v=v, q=q, o=o, k_bias=k_bias, v_bias=v_bias, q_bias=q_bias)

    def _merge_values(self, heads: tuple[int, ...]) -> tuple[Tensor, Tensor | None, Tensor]:
        """Shared V (dv, D), its bias, and the outputs (m, D, dv) that read it."""
        w, hidden = self.weights, self.weights.v.shape[-1]
        shared, maps = self.values.fit(heads)
        o = w.o[self.queries_of(heads)] @ maps.repeat_interleave(self.source.queries_per_kv, dim=0)
        return shared[:, :hidden], None if w.v_bias is None else shared[:, hidden], o

    def _merge_keys(self, heads: tuple[int, ...]) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Shared K (d, D), its bias, and the queries (m, d, D) turned to read it, with theirs."""
        w, hidden = self.weights, self.weights.k.shape[-1]
        k, maps = self.rotated.fit(heads)
        if self.fixed is not None:
            rows, fixed = self.fixed.fit(heads)
            k = torch.cat([k, rows])
            fixed = fixed.mT.repeat_interleave(self.source.queries_per_kv, dim=0)
            maps = torch.stack([torch.block_diag(*pair) for pair in zip(maps, fixed, strict=True)])
        q, q_bias = mapped_queries(w, self.queries_of(heads), maps)
        return k[:, :hidden], None if w.k_bias is None else k[:, hidden], q, q_bias
