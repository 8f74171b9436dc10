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
from gqasearch.merging.moments import like
from gqasearch.merging.positions import turning_of
from gqasearch.merging.score_pairs import centred_moment, effective_rows
from gqasearch.merging.selected import queries_of, selected
from gqasearch.models import LayerWeights, augmented
from gqasearch.separate_grouping import Side


def measured_error(
    source: LayerWeights,
    group: MergedGroup,
    heads: tuple[int, ...],
    statistics: LayerStatistics,
    side: Side | None = None,
) -> float:
    """Error of replacing ``heads`` of the layer ``source`` by the float64 ``group`` (its query order).

    ``side``: the part that keys make, or values; None for both.
    """
    values, keys = error_parts(source, group, heads, statistics)
    return {None: values + keys, "keys": keys, "values": values}[side]


def error_parts(
    source: LayerWeights, group: MergedGroup, heads: tuple[int, ...], statistics: LayerStatistics
) -> tuple[float, float]:
    """The two parts of ``measured_error``: values (v, o) and scores (k, q)."""
    own, queries = selected(source, heads).to(torch.float64), queries_of(source, heads)
    value = value_errors(own, group, like(statistics.attended(own.has_biases), own.q))
    score = score_errors(own, group, queries, statistics)
    gain = like(statistics.score_gain, own.q)[queries]
    # Differences of large sums that nearly cancel for a good merge: rounding may leave them just below 0.
    return float(value.sum().clamp_min(0)), float((gain * score).sum().clamp_min(0))


def value_errors(own: LayerWeights, group: MergedGroup, moment: Tensor) -> Tensor:
    """E||W_o W_v x - W'_o W'_v x||^2 for every query head of the heads ``own``, (m,)."""
    old = augmented(own.v, own.v_bias, own.has_biases).repeat_interleave(own.queries_per_kv, dim=0)
    new = augmented(group.v, group.v_bias, own.has_biases).expand_as(old)
    # The change is [W_o, -W'_o] [W_v; W'_v] x. Its square is a trace of two small products: no (D, D) matrix per head.
    inner = torch.cat([old, new], dim=1)
    outer = torch.cat([own.o, -group.o], dim=2)
    return torch.einsum("mab,mba->m", outer.transpose(1, 2) @ outer, inner @ moment @ inner.transpose(1, 2))


def score_errors(own: LayerWeights, group: MergedGroup, queries: list[int], statistics: LayerStatistics) -> Tensor:
    """Mean squared error of the scores of every query head of the heads ``own``, (m,); ``queries``: their numbers."""
    moment = like(statistics.moment(own.has_biases), own.q)
    q = effective_rows(own.q, own.q_bias, own.norm_of_queries, moment)
    q_new = effective_rows(group.q, group.q_bias, group.norm_of_queries(own), moment)
    k = effective_rows(own.k, own.k_bias, own.norm_of_keys, moment).repeat_interleave(own.queries_per_kv, dim=0)
    bias = None if group.k_bias is None else group.k_bias[None]
    k_new = effective_rows(group.k[None], bias, group.norm_of_keys(own), moment).expand_as(k)
    r, rows = own.rotary_dim, (q, q_new, k, k_new)
    rotated = _errors(
        *(part[:, :r] for part in rows),
        moment=moment,
        of_keys=moment,
        turned=turning_of(statistics, own.q, r, queries).forth,
    )
    centred = like(centred_moment(statistics, own.has_biases), own.q)
    fixed = _errors(*(part[:, r:] for part in rows), moment=moment, of_keys=centred, turned=lambda keys: keys)
    return (rotated + fixed) / own.score_divisor


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
    if not q.shape[1]:
        return q.new_zeros(len(q))

    def product(q_left: Tensor, q_right: Tensor, k_left: Tensor, k_right: Tensor) -> Tensor:
        return ((q_left @ q_right.mT) * turned(k_left @ k_right.mT)).sum((-2, -1))

    q_read, q_new_read, k_read, k_new_read = q @ moment, q_new @ moment, k @ of_keys, k_new @ of_keys
    before, after = product(q_read, q, k_read, k), product(q_new_read, q_new, k_new_read, k_new)
    return before + after - 2 * product(q_read, q_new, k_read, k_new)
