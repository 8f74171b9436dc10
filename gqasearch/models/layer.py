"""One layer's attention weights, seen head by head.

Words: a *head* is a KV head of the source. Every head ``h`` carries ``queries_per_kv`` query heads,
``h * queries_per_kv .. (h + 1) * queries_per_kv - 1``. Under MHA that is one.

    hidden x (D,) --W_q--> (Hq, d) --RoPE--.
                  --W_k--> (H, d)  --RoPE--+-- softmax(q k scale) --> (Hq, dv) --W_o--> (D,)
                  --W_v--> (H, dv) --------'
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from gqasearch.models.head_norm import HeadNorm, centred
from gqasearch.models.row_sizes import rows_of_tied
from gqasearch.separate_grouping import AnyLayer


@dataclass(frozen=True)
class HeadGeometry:
    """Where the heads of a model are: counts and sizes, the same in every layer.

    ``rotary_dim``: how many of the ``head_dim`` key dimensions are rotated, in layers that rotate any
    (``Family.layer_rotary_dim``); dimension ``i`` pairs with ``i + rotary_dim // 2``. 0 means no RoPE.
    """

    num_layers: int
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    rotary_dim: int

    @property
    def queries_per_kv(self) -> int:
        return self.num_attention_heads // self.num_kv_heads


@dataclass(frozen=True)
class LayerWeights:
    """Q, K, V, O of one layer, split by head. Shapes (Hq query heads, G KV heads):

    ``q`` (Hq, d, D), ``k`` (G, d, D), ``v`` (G, dv, D), ``o`` (Hq, D, dv); biases ``q_bias`` (Hq, d),
    ``k_bias`` (G, d), ``v_bias`` (G, dv) or None; ``q_norm``, ``k_norm`` (d,): weights of the norms
    applied to every head before RoPE (Qwen3), or None; ``q_norms`` (Hq, d), ``k_norms`` (G, d): the same where every
    head has its own; ``q_shift``, ``k_shift`` (d,): what these norms add, or None; ``centred``: they are LayerNorms
    (``gqasearch.models.head_norm``). ``score_scale``: what multiplies q k, None for the
    usual 1/sqrt(d). G is H in the source, the number of groups after a merge; that of keys and that of values may
    differ where they were grouped apart. ``joined``: how many times every
    frequency of RoPE comes, side by side (``gqasearch.models.joined``). ``sinks`` (Hq,): a score of every query head
    beside those of the tokens, whose share of the attention reads nothing (gpt-oss), or None. ``q_rows`` (Hq, d, D),
    ``k_rows`` (H, d, D), ``q_gain``, ``k_gain``: of norms over all heads (``gqasearch.models.whole_norm``), or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    rotary_dim: int
    q_bias: Tensor | None = None
    k_bias: Tensor | None = None
    v_bias: Tensor | None = None
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    q_norms: Tensor | None = None
    k_norms: Tensor | None = None
    q_shift: Tensor | None = None
    k_shift: Tensor | None = None
    centred: bool = False
    score_scale: float | None = None
    joined: int = 1
    sinks: Tensor | None = None
    q_rows: Tensor | None = None
    k_rows: Tensor | None = None
    q_gain: Tensor | None = None
    k_gain: Tensor | None = None

    @property
    def num_kv_heads(self) -> int:
        return self.k.shape[0]

    @property
    def queries_per_kv(self) -> int:
        return self.q.shape[0] // self.k.shape[0]

    @property
    def head_dim(self) -> int:
        return self.k.shape[1]

    @property
    def score_divisor(self) -> float:
        """1 / scale^2: what the square of q k is divided by in the square of a score; d as a rule."""
        return self.head_dim if self.score_scale is None else self.score_scale**-2

    @property
    def has_biases(self) -> bool:
        added = (self.q_bias, self.k_bias, self.v_bias, self.q_shift, self.k_shift)
        return any(bias is not None for bias in added)

    @property
    def norm_of_queries(self) -> HeadNorm | None:
        """What every query head is normed by before RoPE."""
        weight = self.q_norm if self.q_norms is None else self.q_norms
        return None if weight is None else HeadNorm(weight, self.q_shift, self.centred)

    @property
    def norm_of_keys(self) -> HeadNorm | None:
        """What every key head is normed by before RoPE."""
        weight = self.k_norm if self.k_norms is None else self.k_norms
        return None if weight is None else HeadNorm(weight, self.k_shift, self.centred)

    @property
    def seen_keys(self) -> tuple[Tensor, Tensor | None]:
        """``k`` and ``k_bias`` without what a LayerNorm takes away: heads that differ in nothing else are the same."""
        if not self.centred:
            return self.k, self.k_bias
        return centred(self.k), None if self.k_bias is None else centred(self.k_bias, -1)

    def to(self, dtype: torch.dtype) -> LayerWeights:
        """The same weights in another dtype."""
        cast: dict[str, Any] = {
            f.name: value.to(dtype) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **cast)

    def queries_of(self, head: int) -> range:
        """The query heads that the source's head ``head`` carries (source layers only)."""
        return range(head * self.queries_per_kv, (head + 1) * self.queries_per_kv)


def augmented(weight: Tensor, bias: Tensor | None, with_bias: bool) -> Tensor:
    """Weights that act on ``[x; 1]`` when ``with_bias``: (..., D) -> (..., D + 1), else unchanged."""
    if not with_bias:
        return weight
    column = weight.new_zeros(weight.shape[:-1]) if bias is None else bias
    return torch.cat([weight, column.unsqueeze(-1)], dim=-1)


def tie_heads(merged: LayerWeights, layer: AnyLayer, queries_per_kv: int) -> LayerWeights:
    """Undo the sharing: every source head gets a copy of its groups' K and V, (G, ...) -> (H, ...).

    The result has the source's shape and computes the same function as the grouped layer, so any
    model code can run it; it is the reference that every checkpoint is compared with.
    """
    if merged.q.shape[0] != layer.num_heads * queries_per_kv:
        raise ValueError(f"{merged.q.shape[0]} query heads, expected {layer.num_heads} * {queries_per_kv}")
    of_keys = torch.tensor(layer.keys.labels, device=merged.k.device)
    of_values = torch.tensor(layer.values.labels, device=merged.v.device)
    k_rows = None if merged.k_rows is None else rows_of_tied(merged.k_rows, layer.keys)
    return replace(
        merged,
        k_rows=k_rows,
        k_norms=None if merged.k_norms is None else merged.k_norms.index_select(0, of_keys),
        k=merged.k.index_select(0, of_keys),
        v=merged.v.index_select(0, of_values),
        k_bias=None if merged.k_bias is None else merged.k_bias.index_select(0, of_keys),
        v_bias=None if merged.v_bias is None else merged.v_bias.index_select(0, of_values),
    )
