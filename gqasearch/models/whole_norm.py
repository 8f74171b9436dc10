"""One RMS norm over the keys of all heads, and one over the queries (OLMo 2, OLMo 3, OLMoE).

A head's key is gain * W_k x / r(x), where r is the root mean square of W_k x over the rows of *all* heads. In
``LayerWeights`` ``k`` has the gain in it, as everything that merges heads wants it, and ``k_rows`` and ``k_gain`` are
W_k and the gain as stored; queries alike. Written are rows of some size, and the gain that makes the head of them:

    head_j = gain_j * row_j,   |row_j| = |source's row_j|

so that every row weighs in r as it did. Where heads share, |row_j|^2 is their mean. A norm over G groups, of n heads
each, divides by the mean over groups; rows are stored times sqrt(G n / H) (and gains over that), which makes it the
mean over the H heads that it was. r is still another function of x than the source's: that is the approximation.
Padding adds slots without rows, and the others are stored times sqrt(slots / Hq): exact, with the eps of all norms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gqasearch.grouping import LayerGrouping
from gqasearch.models.described import Described
from gqasearch.models.family import Config, TensorReader
from gqasearch.models.layer import HeadGeometry, LayerWeights
from gqasearch.models.row_sizes import rows_of_tied

NORMS = ("q_norm", "k_norm")


def stored_heads(heads: Tensor, rows: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (n, d, D) and gain (n, d) whose product ``heads`` (n, d, D) is; ``rows`` say how large they are to be.

    Heads that are ``gain`` * ``rows`` give these very bits, unless gradients are to flow through them.
    """
    tiny = torch.finfo(heads.dtype).tiny
    scale = rows.norm(dim=-1).to(heads) / heads.norm(dim=-1).clamp_min(tiny)
    empty = scale == 0  # slots without a head
    found = heads * scale[..., None], torch.where(empty, 0, 1 / torch.where(empty, 1, scale))
    if heads.requires_grad or heads.is_meta:
        return found
    same = (heads == folded(rows, gain)).all((1, 2))
    return torch.where(same[:, None, None], rows.to(heads), found[0]), torch.where(same[:, None], gain, found[1])


def folded(rows: Tensor, gain: Tensor) -> Tensor:
    """Heads (n, d, D), in float32 or wider."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    return rows.to(wide) * gain.to(wide)[..., None]


def rows_for_groups(merged: LayerWeights, keys: LayerGrouping) -> LayerWeights:
    """``merged``, k (G, d, D), with ``k_rows`` and ``k_gain`` for its groups: (H, ...) -> (G, ...)."""
    if merged.k_rows is None or merged.k_gain is None:
        return merged
    first = torch.tensor([group[0] for group in keys.groups], device=merged.k.device)
    factors = torch.tensor([keys.num_groups * size / keys.num_heads for size in keys.sizes]).to(merged.k_rows)
    means = rows_of_tied(merged.k_rows, keys)[first]
    return replace(
        merged,
        k_rows=means * factors.sqrt()[:, None, None],
        k_gain=merged.k_gain[first] / factors.sqrt()[:, None],
    )


def in_more_slots(rows: Tensor, heads: int) -> Tensor:
    """Rows (slots, d, D) of which ``heads`` are not empty, as they weigh among so many."""
    return rows if len(rows) == heads else rows * (len(rows) / heads) ** 0.5


@dataclass(frozen=True, kw_only=True)
class WholeNormed(Described):
    """Queries and keys under a norm over all their heads, whose weights a merge changes too."""

    def layer_tensors(self, layer: int, config: Config) -> dict[str, str]:
        norms = {role: self.tensor_name(layer, role) for role in NORMS}
        return {**super().layer_tensors(layer, config), **norms}

    def read_layer(self, read: TensorReader, layer: int, config: Config) -> LayerWeights:
        stored = super().read_layer(read, layer, config)
        q_gain, k_gain = (read(self.tensor_name(layer, norm)).unflatten(0, (-1, stored.head_dim)) for norm in NORMS)
        return replace(
            stored,
            q=folded(stored.q, q_gain),
            k=folded(stored.k, k_gain),
            q_rows=stored.q,
            k_rows=stored.k,
            q_gain=q_gain,
            k_gain=k_gain,
        )

    def split_heads(self, got: Mapping[str, Tensor], shape: HeadGeometry) -> dict[str, Tensor]:
        return super().split_heads({role: tensor for role, tensor in got.items() if role not in NORMS}, shape)

    def join_heads(self, weights: LayerWeights) -> dict[str, Tensor]:
        if weights.q_rows is None or weights.k_rows is None or weights.q_gain is None or weights.k_gain is None:
            raise ValueError(f"a layer of {self.name} has norms over all heads")
        q, q_gain = stored_heads(weights.q, weights.q_rows, weights.q_gain)
        k, k_gain = stored_heads(weights.k, weights.k_rows, weights.k_gain)
        joined = super().join_heads(replace(weights, q=q, k=k))
        return {**joined, "q_norm": q_gain.flatten(), "k_norm": k_gain.flatten()}
