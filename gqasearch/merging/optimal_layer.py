"""The arithmetic of the optimal merge for heads without norms; see ``optimal``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.merging._base import LayerMerge
from gqasearch.merging.merged_group import MergedGroup
from gqasearch.merging.moments import cross_moments, like
from gqasearch.merging.positions import turning_of
from gqasearch.merging.score_pairs import centred_moment, effective_rows, mapped_queries, query_moments
from gqasearch.merging.shared_pairs import SharedPairs
from gqasearch.merging.shared_rotated import SharedRotated, side_by_side
from gqasearch.merging.shared_subspace import SharedSubspace
from gqasearch.models import LayerWeights, augmented
from gqasearch.models.joined import own_dimensions
from gqasearch.separate_grouping import Side


class OptimalLayer(LayerMerge):
    """Gram matrices of all heads, computed once; a group is a sub-matrix and its eigenvectors."""

    def __init__(self, weights: LayerWeights, statistics: LayerStatistics) -> None:
        super().__init__(weights, statistics)
        self.statistics: LayerStatistics = statistics
        self.own = own_dimensions(weights)  # rotated pairs, and values
        rows, reads = self._value_rows(weights)[:, self.own.values], self._value_reads()
        reads = reads[:, self.own.values][:, :, self.own.values]
        self.values = SharedSubspace(rows, reads, self._attended(), weights.v.shape[1])
        self._bind_keys(like(statistics.moment(weights.has_biases), weights.k))

    def _bind_keys(self, moment: Tensor) -> None:
        """Gram matrices of what enters the scores; ``moment`` E[x x^T]."""
        w, r = self.source, self.source.rotary_dim
        cost = like(self.statistics.score_gain, w.q)[:, None, None] / w.score_divisor
        reads = query_moments(w, moment) * cost
        self.fixed: SharedSubspace | None = None
        keys = self._key_rows(w, moment)
        if r < w.head_dim:
            own = self.own.fixed
            self._bind_fixed(keys[:, own], self._by_head(reads[:, own][:, :, own]))
        order = self.own.keys[side_by_side(len(self.own.keys))]
        reads, gram = reads[:, order][:, :, order], cross_moments(keys[:, order], moment)
        copies = len(order) * w.joined // max(r, 1)  # of every frequency in a head
        self.pairs = SharedPairs(gram, self._pair_energy(reads), max(copies, 1), w.joined)
        self._bind_rotated(gram, reads)

    def _bind_fixed(self, keys: Tensor, reads: Tensor) -> None:
        """What keys (H, s, D) that RoPE leaves alone are fitted from; ``reads`` (H, s, s): what their errors cost."""
        room = self.source.head_dim - self.source.rotary_dim  # of heads that are being joined more than they use
        self.fixed = SharedSubspace(keys, reads, self._centred(), room)

    def _bind_rotated(self, gram: Tensor, reads: Tensor) -> None:
        """What rotated keys are fitted from: moments of keys and of queries, pairs side by side."""
        turning = turning_of(self.statistics, gram, self.source.rotary_dim, range(len(reads)))
        self.rotated = SharedRotated(gram, reads, self.pairs, turning, self.own.pairs)

    def _value_rows(self, weights: LayerWeights) -> Tensor:
        """W_v (H, dv, D), float64, with a column for biases where the model has any."""
        bias = None if weights.v_bias is None else weights.v_bias.double()
        return augmented(weights.v.double(), bias, self.source.has_biases)

    def _key_rows(self, weights: LayerWeights, moment: Tensor) -> Tensor:
        """W_k (H, d, D), float64, likewise, that give what enters the scores; without what all heads' norms add."""
        bias, norm = None if weights.k_bias is None else weights.k_bias.double(), weights.norm_of_keys
        return effective_rows(weights.k.double(), bias, norm and replace(norm, shift=None), moment)

    def _attended(self) -> Tensor:
        return like(self.statistics.attended(self.source.has_biases), self.source.v)

    def _centred(self) -> Tensor:
        return like(centred_moment(self.statistics, self.source.has_biases), self.source.k)

    def _by_head(self, of_queries: Tensor) -> Tensor:
        """Sum over the queries of every head, (Hq, ...) -> (H, ...)."""
        total: Tensor = of_queries.unflatten(0, (-1, self.source.queries_per_kv)).sum(1)
        return total

    def _value_reads(self) -> Tensor:
        """What an error of a value costs: sum over the head's queries of W_o^T W_o, (H, dv, dv)."""
        reads = [wide.mT @ wide for wide in (of_query.double() for of_query in self.source.o)]
        return self._by_head(torch.stack(reads))

    def _pair_energy(self, reads: Tensor) -> Tensor:
        """e (H, r/2): what a unit squared error of a key pair costs at any position; 1/2 is the mean of cos^2."""
        energy = reads.diagonal(dim1=1, dim2=2).unflatten(1, (-1, 2)).sum(2)
        return self._by_head(energy / 2)

    def _group_errors(self, groups: Sequence[tuple[int, ...]], side: Side | None) -> list[float]:
        errors = np.zeros(len(groups))
        of_size: dict[int, list[int]] = {}  # matrices of one shape are solved in one call
        for row, heads in enumerate(groups):
            of_size.setdefault(len(heads), []).append(row)
        for rows in of_size.values():
            same = np.array([groups[row] for row in rows])
            if side != "keys":
                errors[rows] += self.values.errors(same)
            if side != "values":
                errors[rows] += self.rotated.errors(same)
                errors[rows] += 0.0 if self.fixed is None else self.fixed.errors(same)
        return [float(error) for error in errors]

    def merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        own = self.heads(heads)
        v, v_bias, o = self._merge_values(heads, own)
        k, k_bias, q, q_bias = self._merge_keys(heads, own)
        return MergedGroup(k=k, v=v, q=q, o=o, k_bias=k_bias, v_bias=v_bias, q_bias=q_bias)

    def _merge_values(self, heads: tuple[int, ...], own: LayerWeights) -> tuple[Tensor, Tensor | None, Tensor]:
        """Shared V (dv, D), its bias, and the outputs (m, D, dv) that read it; ``own``: these heads."""
        hidden = own.v.shape[-1]
        places = self.own.values
        shared, maps = self.values.fit(heads, self._value_rows(own)[:, places], self._attended())
        o = own.o[..., places] @ maps.repeat_interleave(own.queries_per_kv, dim=0)
        return shared[:, :hidden], None if own.v_bias is None else shared[:, hidden], o

    def _merge_keys(
        self, heads: tuple[int, ...], own: LayerWeights
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Shared K (d, D), its bias, and the queries (m, d, D) turned to read it, with theirs."""
        hidden = own.k.shape[-1]
        rows = augmented(own.k, own.k_bias, self.source.has_biases)
        k, maps = self.rotated.fit(heads, rows[:, self.own.keys])
        if self.fixed is not None:
            fixed_k, fixed = self.fixed.fit(heads, rows[:, self.own.fixed], self._centred())
            if own.k_bias is not None:
                # What all keys have in common is seen by no softmax, and is large where they were centred: a cache in
                # 8 bits, or in bfloat16, would hold little else.
                fixed_k[:, hidden] = -fixed_k[:, :hidden] @ like(self.statistics.mean, fixed_k)
            k = torch.cat([k, fixed_k])
            fixed = fixed.mT.repeat_interleave(own.queries_per_kv, dim=0)
            maps = torch.stack([torch.block_diag(*pair) for pair in zip(maps, fixed, strict=True)])
        read = torch.cat([self.own.keys, self.own.fixed])
        q, q_bias = mapped_queries(own, maps, read)
        return k[:, :hidden], None if own.k_bias is None else k[:, hidden], q, q_bias
