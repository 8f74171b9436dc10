"""What enters the attention scores, and which of it can be moved from keys to queries.

RoPE rotates dimension ``i`` with dimension ``i + r/2`` of the first r dimensions: as the complex number
k_i + j k_{i + r/2} a key at position p is multiplied by exp(j p theta_i). The score of a query and a key is
the sum over pairs of Re(q_i conj(k_i) exp(j (p_q - p_k) theta_i)); at every distance alike only what commutes with
that rotation, one complex factor per pair, can be moved from keys to queries (near by, more: ``positions``). The
dimensions from r on (all of them without RoPE) add q^T k whatever the positions: any invertible matrix can be moved.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.merging.moments import ROWS
from gqasearch.models import LayerWeights, augmented
from gqasearch.models.head_norm import HeadNorm


def to_pairs(weight: Tensor) -> Tensor:
    """Real rows (..., r, D) to complex rows (..., r/2, D)."""
    half = weight.shape[-2] // 2
    return torch.complex(weight[..., :half, :].contiguous(), weight[..., half:, :].contiguous())


def from_pairs(pairs: Tensor) -> Tensor:
    """Complex rows (..., r/2, D) to real rows (..., r, D)."""
    return torch.cat([pairs.real, pairs.imag], dim=-2)


def effective_rows(weight: Tensor, bias: Tensor | None, norm: HeadNorm | None, moment: Tensor) -> Tensor:
    """Rows (n, d, D or D+1) that give what enters the score, from ``weight`` (n, d, D).

    ``moment`` is E[x x^T], augmented when the model has biases. Without a head norm this is the
    weight itself. A norm is linearised: divided by the head's root mean square over tokens and
    multiplied by the norm's weight; what it adds stands where biases do. A LayerNorm sees centred rows.
    """
    full = augmented(weight, bias, moment.shape[0] == weight.shape[-1] + 1)
    if norm is None:
        return full
    # The norm divides by another number for every token; one for all makes the rows linear in x, which the fits need.
    full = norm.seen(full)
    energy = torch.einsum("ndi,ij,ndj->n", full, moment, full) / weight.shape[-2]
    rows = full * norm.weight[..., None] / energy.clamp_min(torch.finfo(full.dtype).tiny).sqrt()[:, None, None]
    if norm.shift is None:
        return rows
    return torch.cat([rows[..., :-1], rows[..., -1:] + norm.shift.to(rows)[:, None]], dim=-1)


def query_moments(weights: LayerWeights, moment: Tensor) -> Tensor:
    """E[q q^T] of what enters the scores, of every query head, (Hq, d, d), float64; ``moment`` as above."""
    step, found, norm = max(1, ROWS // weights.head_dim), [], weights.norm_of_queries
    for first in range(0, len(weights.q), step):
        some = slice(first, first + step)
        bias = None if weights.q_bias is None else weights.q_bias[some].double()
        rows = effective_rows(weights.q[some].double(), bias, norm and norm.some(some), moment)
        found.append(rows @ moment @ rows.mT)
    return torch.cat(found)


def centred_moment(statistics: LayerStatistics, with_bias: bool) -> Tensor:
    """Covariance of x, or of [x; 1] (D + 1, D + 1): the moment of keys that no rotation turns.

    What such keys have in common at every token adds the same to all scores of a query, and softmax does not see it.
    """
    mean = statistics.mean
    if with_bias:
        mean = torch.cat([mean, mean.new_ones(1)])
    return statistics.moment(with_bias) - torch.outer(mean, mean)


def turned_queries(own: LayerWeights, factors: Tensor, maps: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Query weights (m, d, D) and biases (m, d) that read a shared key z in place of the key of their head.

    ``own``: the n heads. ``factors`` (n, r/2) complex: k ~ c z on the pairs, so q' = conj(c) q. ``maps`` (n, s, s):
    k ~ P z on the s = d - r other dimensions, so q' = P^T q; None where those stay as they are.
    """
    rows, m, r, norm = own.q, own.queries_per_kv, own.rotary_dim, own.norm_of_queries
    if own.q_bias is not None:
        rows = torch.cat([rows, own.q_bias[..., None]], dim=-1)
    if norm is not None:  # the norm's weights stand between W_q and the rotation
        rows = norm.scaled(rows)
    turn = factors.conj().repeat_interleave(m, dim=0)[..., None]
    turned = from_pairs(turn * to_pairs(rows[:, :r]))
    rest = rows[:, r:] if maps is None else maps.mT.repeat_interleave(m, dim=0) @ rows[:, r:]
    turned = before_norm(torch.cat([turned, rest], dim=1), norm)
    hidden = own.q.shape[-1]
    return turned[..., :hidden], None if own.q_bias is None else turned[..., hidden]


def mapped_queries(own: LayerWeights, maps: Tensor, read: Tensor) -> tuple[Tensor, Tensor | None]:
    """Query weights (m, d, D) and biases (m, d) from ``maps`` (m, d, s) of the dimensions ``read`` (s,), for heads
    without norms.
    """
    bias = None if own.q_bias is None else (maps @ own.q_bias[:, read, None])[..., 0]
    return maps @ own.q[:, read], bias


def before_norm(rows: Tensor, norm: HeadNorm | None) -> Tensor:
    """Rows (..., d, D) over the norm's weights; rows whose weight is zero never reach the score and stay."""
    if norm is None:
        return rows
    return rows / torch.where(norm.weight.abs() > 0, norm.weight, 1.0)[..., None]
