"""The arithmetic of the aligned merges; see ``aligned``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.merging._base import LayerMerge
from gqasearch.merging.error import error_parts
from gqasearch.merging.mean import mean_of
from gqasearch.merging.merged_group import MergedGroup
from gqasearch.merging.moments import cross_moments, like
from gqasearch.merging.one_norm import under_one_norm
from gqasearch.merging.procrustes import align
from gqasearch.merging.score_pairs import before_norm, centred_moment, from_pairs, to_pairs, turned_queries
from gqasearch.merging.selected import OF_SIDE
from gqasearch.models import LayerWeights, augmented
from gqasearch.separate_grouping import Side
from gqasearch.threads import pinned

# For each head of a group: V (n, dv, dv), RoPE pairs (n, r/2), the rest of K (n, s, s) or None.
Alignment: TypeAlias = tuple[Tensor, Tensor, Tensor | None]
MOST_AT_ONCE = 32


class AlignedLayer(LayerMerge):
    """Cross moments of all heads, computed once; a group is a sub-matrix and its alignment."""

    def __init__(self, weights: LayerWeights, statistics: LayerStatistics) -> None:
        super().__init__(weights, statistics)
        keys, r = self._key_rows(weights), weights.rotary_dim
        self.value_gram = cross_moments(self._value_rows(weights), self._moment())
        self.pair_gram = _pair_moments(cross_moments(keys[:, :r], self._moment()))
        # No rotation of the dimensions that RoPE leaves alone passes the weights of a norm: there they stay.
        fixed = keys[:, r:] if weights.norm_of_keys is None else keys[:, :0]
        self.fixed_gram = cross_moments(fixed, self._centred())
        self._aligned: dict[tuple[int, ...], Alignment] = {}  # ahead of the groups that are being measured

    def _moment(self) -> Tensor:
        return like(self.require_statistics().moment(self.source.has_biases), self.source.k)

    def _centred(self) -> Tensor:
        return like(centred_moment(self.require_statistics(), self.source.has_biases), self.source.k)

    def _value_rows(self, weights: LayerWeights) -> Tensor:
        """W_v (H, dv, D), float64, with a column for biases where the model has any."""
        bias = None if weights.v_bias is None else weights.v_bias.double()
        return augmented(weights.v.double(), bias, self.source.has_biases)

    def _key_rows(self, weights: LayerWeights) -> Tensor:
        """W_k (H, d, D), float64, likewise; times the weights of a norm, which stand between W_k and the rotation."""
        bias = None if weights.k_bias is None else weights.k_bias.double()
        keys, norm = augmented(weights.k.double(), bias, self.source.has_biases), weights.norm_of_keys
        return keys if norm is None else norm.scaled(keys)

    def merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        """Aligned K with its queries, and aligned V with its outputs; each unaligned where that measures less.

        Procrustes counts every direction of a head alike, the error by what reads it, so either may be better.
        """
        plain, aligned = mean_of(self.heads(heads)), self.aligned_group(heads)
        statistics = self.require_statistics()
        before = error_parts(self.source, plain, heads, statistics)
        after = error_parts(self.source, aligned, heads, statistics)
        if after[0] > before[0]:
            aligned = replace(aligned, v=plain.v, v_bias=plain.v_bias, o=plain.o)
        if after[1] > before[1]:
            aligned = replace(aligned, **{role: getattr(plain, role) for role in OF_SIDE["keys"]})
        return aligned

    def aligned_group(self, heads: tuple[int, ...]) -> MergedGroup:
        """All heads aligned, then averaged, whatever that measures."""
        own = self.heads(heads)
        own = under_one_norm(own, own.k.new_full((len(heads),), 1 / len(heads)))
        turns, factors, maps = self.alignment(heads)
        k, k_bias = self.turned_keys(own, factors, maps)
        v, v_bias = self.turned_values(own, turns)
        q, q_bias = turned_queries(own, factors, maps)
        return MergedGroup(
            k=k.mean(0),
            v=v.mean(0),
            q=q,
            o=own.o @ turns.repeat_interleave(own.queries_per_kv, dim=0),
            k_bias=None if k_bias is None else k_bias.mean(0),
            v_bias=None if v_bias is None else v_bias.mean(0),
            q_bias=q_bias,
            k_norms=None if own.k_norms is None else own.k_norms[0],
            q_norms=own.q_norms,
        )

    def _group_errors(self, groups: Sequence[tuple[int, ...]], side: Side | None) -> list[float]:
        """Groups of one size are aligned together: most of the time goes there, and nearly all of it into calls."""
        errors: dict[tuple[int, ...], float] = {}
        for same in _of_one_size(groups):
            self._aligned = dict(zip(same, self._align_all(same), strict=True))
            errors |= {heads: self.measured_error(heads, side) for heads in same}
        self._aligned = {}
        return [errors[heads] for heads in groups]

    def alignment(self, heads: tuple[int, ...]) -> Alignment:
        """What turns the common mean into each head: V (n, dv, dv), pairs (n, r/2) complex, the rest (n, s, s)."""
        return self._aligned.get(heads) or self._align_all([heads])[0]

    def _align_all(self, groups: Sequence[tuple[int, ...]]) -> list[Alignment]:
        """``alignment`` of groups of one size."""
        index = torch.tensor(groups, device=self.value_gram.device)
        with pinned(1):
            turns = align(_blocks(self.value_gram, index))
            pairs = align(_blocks(self.pair_gram, index).flatten(0, 1)).unflatten(0, (-1, len(groups)))
            maps = align(_blocks(self.fixed_gram, index))
        factors = pairs[..., 0, 0].permute(1, 2, 0)
        of_rest = maps if self.fixed_gram.shape[-1] else [None] * len(groups)
        return list(zip(turns, factors, of_rest, strict=True))

    def turned_values(self, own: LayerWeights, turns: Tensor) -> tuple[Tensor, Tensor | None]:
        """V (n, dv, D) and biases (n, dv) of the heads ``own``, turned towards their mean."""
        return _without_bias(turns.mT @ self._value_rows(own), own.v_bias, own)

    def turned_keys(self, own: LayerWeights, factors: Tensor, maps: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """K (n, d, D) and biases (n, d) of the heads ``own``, turned towards their mean."""
        keys, r = self._key_rows(own), own.rotary_dim
        k = from_pairs(factors.conj()[..., None] * to_pairs(keys[:, :r]))
        k = torch.cat([k, keys[:, r:] if maps is None else maps.mT @ keys[:, r:]], dim=1)
        return _without_bias(before_norm(k, own.norm_of_keys), own.k_bias, own)


class AlignedRenormLayer(AlignedLayer):
    """The aligned mean, scaled so that K and V keep the group's mean norm in the activation metric."""

    def merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        group, own = super().merge_group(heads), self.heads(heads)
        k_scale = _norm_ratio(self.key_norms(group.k[None], group.k_bias), self.key_norms(own.k, own.k_bias))
        v_scale = _norm_ratio(self.value_norms(group.v[None], group.v_bias), self.value_norms(own.v, own.v_bias))
        return group.scaled(k_scale, v_scale)

    def value_norms(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        """sqrt(E||v||^2) of every head of ``rows`` (n, dv, D), (n,)."""
        full = augmented(rows, None if bias is None else bias.view(rows.shape[:2]), self.source.has_biases)
        return _energy(full, self._moment()).sqrt()

    def key_norms(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        """sqrt(E||k||^2) of every head of ``rows`` (n, d, D), (n,); without their mean where nothing is rotated."""
        full = augmented(rows, None if bias is None else bias.view(rows.shape[:2]), self.source.has_biases)
        r, norm = self.source.rotary_dim, self.source.norm_of_keys
        full = full if norm is None else norm.seen(full)
        return (_energy(full[:, :r], self._moment()) + _energy(full[:, r:], self._centred())).sqrt()


def _without_bias(rows: Tensor, bias: Tensor | None, own: LayerWeights) -> tuple[Tensor, Tensor | None]:
    """Augmented rows (n, d, D + 1) as weights and biases."""
    hidden = own.q.shape[-1]
    return rows[..., :hidden], None if bias is None else rows[..., hidden]


def _energy(rows: Tensor, moment: Tensor) -> Tensor:
    return ((rows @ moment) * rows).sum((1, 2)).clamp_min(0)


def _norm_ratio(merged: Tensor, sources: Tensor) -> Tensor:
    """Mean of the sources' norms (n,) over the merged one's (1,); 1 where that is 0."""
    return torch.where(merged > 0, sources.mean() / merged, 1.0)


def _pair_moments(gram: Tensor) -> Tensor:
    """E[k_h conj(k_j)] per pair, (r/2, H, H, 1, 1), from the real moments (H, H, r, r) with halves apart."""
    half = gram.shape[-1] // 2
    by_half = gram.unflatten(3, (2, half)).unflatten(2, (2, half)).diagonal(dim1=3, dim2=5)  # (H, H, 2, 2, r/2)
    pairs = torch.complex(by_half[:, :, 0, 0] + by_half[:, :, 1, 1], by_half[:, :, 1, 0] - by_half[:, :, 0, 1])
    return pairs.permute(2, 0, 1)[..., None, None]


def _blocks(gram: Tensor, index: Tensor) -> Tensor:
    """The heads ``index`` (b, n) of (..., H, H, s, s): (..., b, n, s, n, s)."""
    return gram[..., index[:, :, None], index[:, None, :], :, :].transpose(-3, -2)


def _of_one_size(groups: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """The groups by their size, few enough at a time for memory."""
    by_size: dict[int, list[tuple[int, ...]]] = {}
    for heads in groups:
        by_size.setdefault(len(heads), []).append(heads)
    for same in by_size.values():
        for start in range(0, len(same), MOST_AT_ONCE):
            yield same[start : start + MOST_AT_ONCE]
