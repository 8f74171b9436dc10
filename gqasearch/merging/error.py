"""What a merge costs: the expected squared change of a layer's attention output.

The error of a group is the sum of two parts in one unit, the squared norm that the layer adds wrongly
to the residual stream, per token:

- values: E||W_o,q W_v,h x - W'_o,q W'_v x||^2 over tokens x, times the share of a value's energy that
  survives attention (``value_gain``);
- scores: E|s - s'|^2 for independent query and key tokens at a random relative position, times what a
  unit error of independent scores does to the head's output (``score_gain``).

Being a plain expectation over measured moments it holds for every merge, and a closed form can be
checked against it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.merging.merged_group import MergedGroup
from gqasearch.merging.score_pairs import effective_pairs, pair_moments
from gqasearch.models import LayerWeights, augmented


def measured_error(
    source: LayerWeights, group: MergedGroup, heads: tuple[int, ...], statistics: LayerStatistics
) -> float:
    """Error of replacing ``heads`` of the float64 layer ``source`` by ``group`` (its query order)."""
    moment = statistics.moment(source.has_biases).to(source.q)
    owner = torch.tensor([head for head in heads for _ in source.queries_of(head)], device=moment.device)
    queries = torch.tensor([query for head in heads for query in source.queries_of(head)], device=moment.device)
    value = value_errors(source, group, owner, queries, moment)
    score = score_errors(source, group, owner, queries, moment)
    gains = statistics.value_gain.to(moment)[queries], statistics.score_gain.to(moment)[queries]
    return float((gains[0] * value + gains[1] * score).sum().clamp_min(0))


def value_errors(source: LayerWeights, group: MergedGroup, owner: Tensor, queries: Tensor, moment: Tensor) -> Tensor:
    """E||W_o W_v x - W'_o W'_v x||^2 for every query head of the group, (m,)."""
    with_bias = source.has_biases
    old = augmented(source.v, source.v_bias, with_bias)[owner]
    new = augmented(group.v, group.v_bias, with_bias).expand_as(old)
    inner = torch.cat([old, new], dim=1)
    outer = torch.cat([source.o[queries], -group.o], dim=2)
    return torch.einsum("mab,mba->m", outer.transpose(1, 2) @ outer, inner @ moment @ inner.transpose(1, 2))


def score_errors(source: LayerWeights, group: MergedGroup, owner: Tensor, queries: Tensor, moment: Tensor) -> Tensor:
    """Mean squared error of the scores of every query head of the group, (m,)."""
    bias = None if source.q_bias is None else source.q_bias[queries]
    q = effective_pairs(source.q[queries], bias, source.q_norm, moment)
    q_new = effective_pairs(group.q, group.q_bias, source.q_norm, moment)
    bias = None if source.k_bias is None else source.k_bias[owner]
    k = effective_pairs(source.k[owner], bias, source.k_norm, moment)
    bias = None if group.k_bias is None else group.k_bias[None]
    k_new = effective_pairs(group.k[None], bias, source.k_norm, moment).expand_as(k)
    old = pair_moments(q, q, moment).real * pair_moments(k, k, moment).real
    new = pair_moments(q_new, q_new, moment).real * pair_moments(k_new, k_new, moment).real
    cross = pair_moments(q, q_new, moment) * pair_moments(k, k_new, moment).conj()
    # 1/2: mean of cos^2 over relative positions; 1/d: the score's scale, squared.
    return (old + new - 2 * cross.real).sum(-1) / (2 * source.head_dim)
