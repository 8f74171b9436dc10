"""What a merge costs: the expected squared change of a layer's attention output.

The error of a group is the sum of two parts in one unit, the squared norm that the layer adds wrongly
to the residual stream, per token:

- values: E||W_o,q W_v,h x - W'_o,q W'_v x||^2 over x as attention averages it (``attended_moment``);
- scores: E|s - s'|^2 for independent query and key tokens at relative positions drawn from where the query head
  looks (``positions``), times what a unit error of independent scores does to the head's output (``score_gain``).
  The rotated part of a head and the rest count as uncorrelated, so their errors add.

Being a plain expectation over measured moments it holds for every merge, and a closed form can be
checked against it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.merging.merged_group import MergedGroup
from gqasearch.merging.positions import RelativePositions
from gqasearch.merging.score_pairs import centred_moment, effective_rows
from gqasearch.models import LayerWeights, augmented


def measured_error(
    source: LayerWeights, group: MergedGroup, heads: tuple[int, ...], statistics: LayerStatistics
) -> float:
    """Error of replacing ``heads`` of the float64 layer ``source`` by ``group`` (its query order)."""
    return sum(error_parts(source, group, heads, statistics))


def error_parts(
    source: LayerWeights, group: MergedGroup, heads: tuple[int, ...], statistics: LayerStatistics
) -> tuple[float, float]:
    """The two parts of ``measured_error``: values (v, o) and scores (k, q)."""
    moment = statistics.moment(source.has_biases).to(source.q)
    owner = torch.tensor([head for head in heads for _ in source.queries_of(head)], device=moment.device)
    queries = torch.tensor([query for head in heads for query in source.queries_of(head)], device=moment.device)
    value = value_errors(source, group, owner, queries, statistics.attended(source.has_biases).to(source.q))
    score = score_errors(source, group, owner, queries, statistics)
    gain = statistics.score_gain.to(moment)[queries]
    return float(value.sum().clamp_min(0)), float((gain * score).sum().clamp_min(0))


def value_errors(source: LayerWeights, group: MergedGroup, owner: Tensor, queries: Tensor, moment: Tensor) -> Tensor:
    """E||W_o W_v x - W'_o W'_v x||^2 for every query head of the group, (m,)."""
    with_bias = source.has_biases
    old = augmented(source.v, source.v_bias, with_bias)[owner]
    new = augmented(group.v, group.v_bias, with_bias).expand_as(old)
    inner = torch.cat([old, new], dim=1)
    outer = torch.cat([source.o[queries], -group.o], dim=2)
    return torch.einsum("mab,mba->m", outer.transpose(1, 2) @ outer, inner @ moment @ inner.transpose(1, 2))


def score_errors(
    source: LayerWeights, group: MergedGroup, owner: Tensor, queries: Tensor, statistics: LayerStatistics
) -> Tensor:
    """Mean squared error of the scores of every query head of the group, (m,)."""
    moment = statistics.moment(source.has_biases).to(source.q)
    bias = None if source.q_bias is None else source.q_bias[queries]
    q = effective_rows(source.q[queries], bias, source.q_norm, moment)
    q_new = effective_rows(group.q, group.q_bias, source.q_norm, moment)
    bias = None if source.k_bias is None else source.k_bias[owner]
    k = effective_rows(source.k[owner], bias, source.k_norm, moment)
    bias = None if group.k_bias is None else group.k_bias[None]
    k_new = effective_rows(group.k[None], bias, source.k_norm, moment).expand_as(k)
    r, rows = source.rotary_dim, (q, q_new, k, k_new)
    turning = RelativePositions(statistics, moment, r).of(queries.tolist())
    rotated = _errors(
        *(part[:, :r] for part in rows),
        moment=moment,
        of_keys=moment,
        turned=turning.forth,
    )
    centred = centred_moment(statistics, source.has_biases).to(moment)
    fixed = _errors(*(part[:, r:] for part in rows), moment=moment, of_keys=centred, turned=lambda keys: keys)
    return (rotated + fixed) / source.score_divisor


def _errors(
    q: Tensor,
    q_new: Tensor,
    k: Tensor,
    k_new: Tensor,
    *,
    moment: Tensor,
    of_keys: Tensor,
    turned: Callable[[Tensor], Tensor],
) -> Tensor:
    """E|q^T R k - q'^T R k'|^2 of rows (m, s, D), (m,); ``turned``: E[R X R^T] of moments X (m, s, s)."""

    def product(q_left: Tensor, q_right: Tensor, k_left: Tensor, k_right: Tensor) -> Tensor:
        return ((q_left @ moment @ q_right.mT) * turned(k_left @ of_keys @ k_right.mT)).sum((-2, -1))

    return product(q, q, k, k) + product(q_new, q_new, k_new, k_new) - 2 * product(q, q_new, k, k_new)
