"""The arithmetic of the aligned merges; see ``aligned``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.errors import UserError
from gqasearch.merging._base import LayerMerge
from gqasearch.merging.error import error_parts
from gqasearch.merging.mean import mean_of
from gqasearch.merging.merged_group import MergedGroup
from gqasearch.merging.procrustes import align
from gqasearch.merging.score_pairs import before_norm, centred_moment, from_pairs, to_pairs, turned_queries
from gqasearch.models import LayerWeights, augmented

# For each head of a group: V (n, dv, dv), RoPE pairs (n, r/2), the rest of K (n, s, s) or None.
Alignment: TypeAlias = tuple[Tensor, Tensor, Tensor | None]
MOST_AT_ONCE = 32


class AlignedLayer(LayerMerge):
    """Cross moments of all heads, computed once; a group is a sub-matrix and its alignment."""

    def __init__(self, weights: LayerWeights, statistics: LayerStatistics) -> None:
        super().__init__(weights, statistics)
        w, r = self.weights, weights.rotary_dim
        if w.k_norm is not None and r < w.head_dim:
            raise UserError(
                "an aligned merge does not take a model with head norms and RoPE over a part of the head: no rotation "
                "of the other dimensions passes the weights of the norm"
            )
        self.moment = statistics.moment(w.has_biases).to(w.q)
        self.centred = centred_moment(statistics, w.has_biases).to(w.q)
        self.values = augmented(w.v, w.v_bias, w.has_biases)
        keys = augmented(w.k, w.k_bias, w.has_biases)
        if w.k_norm is not None:  # the norm's weights stand between W_k and the rotation
            keys = keys * w.k_norm[:, None]
        self.pairs, self.fixed = to_pairs(keys[:, :r]), keys[:, r:]
        self.value_gram = _cross_moments(self.values, self.moment)
        self.pair_gram = _pair_cross_moments(self.pairs, self.moment)
        self.fixed_gram = _cross_moments(self.fixed, self.centred)
        self._aligned: dict[tuple[int, ...], Alignment] = {}  # ahead of the groups that are being measured

    def _merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        """Aligned K with its queries, and aligned V with its outputs; each unaligned where that measures less.

        Procrustes counts every direction of a head alike, the error by what reads it, so either may be better.
        """
        plain, aligned = mean_of(self.weights, heads), self.aligned_group(heads)
        statistics = self.require_statistics()
        before = error_parts(self.weights, plain, heads, statistics)
        after = error_parts(self.weights, aligned, heads, statistics)
        if after[0] > before[0]:
            aligned = replace(aligned, v=plain.v, v_bias=plain.v_bias, o=plain.o)
        if after[1] > before[1]:
            aligned = replace(aligned, k=plain.k, k_bias=plain.k_bias, q=plain.q, q_bias=plain.q_bias)
        return aligned

    def aligned_group(self, heads: tuple[int, ...]) -> MergedGroup:
        """All heads aligned, then averaged, whatever that measures."""
        w, queries = self.weights, self.queries_of(heads)
        turns, factors, maps = self.alignment(heads)
        k, k_bias = self.turned_keys(heads, factors, maps)
        v, v_bias = self.turned_values(heads, turns)
        q, q_bias = turned_queries(w, queries, factors, maps)
        return MergedGroup(
            k=k.mean(0),
            v=v.mean(0),
            q=q,
            o=w.o[queries] @ turns.repeat_interleave(self.source.queries_per_kv, dim=0),
            k_bias=None if k_bias is None else k_bias.mean(0),
            v_bias=None if v_bias is None else v_bias.mean(0),
            q_bias=q_bias,
        )

    def _group_errors(self, groups: Sequence[tuple[int, ...]]) -> list[float]:
        """Groups of one size are aligned together: most of the time goes there, and nearly all of it into calls."""
        errors: dict[tuple[int, ...], float] = {}
        for same in _of_one_size(groups):
            self._aligned = dict(zip(same, self._align_all(same), strict=True))
            errors |= {heads: self.measured_error(heads) for heads in same}
        self._aligned = {}
        return [errors[heads] for heads in groups]

    def alignment(self, heads: tuple[int, ...]) -> Alignment:
        """What turns the common mean into each head: V (n, dv, dv), pairs (n, r/2) complex, the rest (n, s, s)."""
        return self._aligned.get(heads) or self._align_all([heads])[0]

    def _align_all(self, groups: Sequence[tuple[int, ...]]) -> list[Alignment]:
        """``alignment`` of groups of one size."""
        index = torch.tensor(groups, device=self.value_gram.device)
        turns = align(_blocks(self.value_gram, index))
        pairs = align(_blocks(self.pair_gram, index).flatten(0, 1)).unflatten(0, (-1, len(groups)))
        factors = pairs[..., 0, 0].permute(1, 2, 0)
        if not self.fixed.shape[1]:
            return [(turn, factor, None) for turn, factor in zip(turns, factors, strict=True)]
        maps = align(_blocks(self.fixed_gram, index))
        return list(zip(turns, factors, maps, strict=True))

    def turned_values(self, heads: tuple[int, ...], turns: Tensor) -> tuple[Tensor, Tensor | None]:
        """V (n, dv, D) and biases (n, dv) of ``heads``, turned towards their mean."""
        return self._without_bias(turns.mT @ self.values[list(heads)], self.weights.v_bias)

    def turned_keys(self, heads: tuple[int, ...], factors: Tensor, maps: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """K (n, d, D) and biases (n, d) of ``heads``, turned towards their mean."""
        index = list(heads)
        k = from_pairs(factors.conj()[..., None] * self.pairs[index])
        if maps is not None:
            k = torch.cat([k, maps.mT @ self.fixed[index]], dim=1)
        return self._without_bias(before_norm(k, self.weights.k_norm), self.weights.k_bias)

    def _without_bias(self, rows: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Augmented rows (n, d, D + 1) as weights and biases."""
        hidden = self.weights.q.shape[-1]
        return rows[..., :hidden], None if bias is None else rows[..., hidden]


class AlignedRenormLayer(AlignedLayer):
    """The aligned mean, scaled so that K and V keep the group's mean norm in the activation metric."""

    def _merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        group, w, index = super()._merge_group(heads), self.weights, list(heads)
        k_scale = _norm_ratio(self.key_norms(group.k[None], group.k_bias), self.key_norms(w.k, w.k_bias)[index])
        v_scale = _norm_ratio(self.value_norms(group.v[None], group.v_bias), self.value_norms(w.v, w.v_bias)[index])
        return group.scaled(k_scale, v_scale)

    def value_norms(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        """sqrt(E||v||^2) of every head of ``rows`` (n, dv, D), (n,)."""
        full = augmented(rows, None if bias is None else bias.view(rows.shape[:2]), self.weights.has_biases)
        return _energy(full, self.moment).sqrt()

    def key_norms(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        """sqrt(E||k||^2) of every head of ``rows`` (n, d, D), (n,); without their mean where nothing is rotated."""
        full = augmented(rows, None if bias is None else bias.view(rows.shape[:2]), self.weights.has_biases)
        r = self.weights.rotary_dim
        return (_energy(full[:, :r], self.moment) + _energy(full[:, r:], self.centred)).sqrt()


def _energy(rows: Tensor, moment: Tensor) -> Tensor:
    return ((rows @ moment) * rows).sum((1, 2)).clamp_min(0)


def _norm_ratio(merged: Tensor, sources: Tensor) -> Tensor:
    """Mean of the sources' norms (n,) over the merged one's (1,); 1 where that is 0."""
    return torch.where(merged > 0, sources.mean() / merged, 1.0)


def _cross_moments(rows: Tensor, moment: Tensor) -> Tensor:
    """E[y_h y_j^T] of heads y_h = W_h x, (H, s, H, s)."""
    flat = rows.flatten(0, 1)
    return (flat @ moment @ flat.T).view(*rows.shape[:2], *rows.shape[:2])


def _pair_cross_moments(pairs: Tensor, moment: Tensor) -> Tensor:
    """E[k_h conj(k_j)] per pair, (r/2, H, 1, H, 1)."""
    by_pair = pairs.transpose(0, 1)
    return (by_pair @ moment.to(pairs.dtype) @ by_pair.mH)[:, :, None, :, None]


def _blocks(gram: Tensor, index: Tensor) -> Tensor:
    """The heads ``index`` (b, n) of (..., H, s, H, s): (..., b, n, s, n, s)."""
    by_heads = gram.transpose(-3, -2)  # (..., H, H, s, s)
    return by_heads[..., index[:, :, None], index[:, None, :], :, :].transpose(-3, -2)


def _of_one_size(groups: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """The groups by their size, few enough at a time for memory."""
    by_size: dict[int, list[tuple[int, ...]]] = {}
    for heads in groups:
        by_size.setdefault(len(heads), []).append(heads)
    for same in by_size.values():
        for start in range(0, len(same), MOST_AT_ONCE):
            yield same[start : start + MOST_AT_ONCE]
