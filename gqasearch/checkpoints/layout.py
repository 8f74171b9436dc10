"""Where the query heads go, so that GQA code finds the right KV head for each.

Stock code gives KV head ``g`` the query heads ``g * n .. (g + 1) * n - 1``, the same ``n`` for all. So
the query heads of a group must stand together, and a group smaller than the largest is filled up:

    groups {0,2} {1,3}        symmetric:  q0 q2 | q1 q3
    groups {0,2,3} {1}        padded:     q0 q2 q3 | q1 -- --      -- : zero q rows, zero o columns

An empty slot attends evenly and adds nothing to the output: its columns of ``o`` are zero. The ``ragged``
layout has no empty slots: its own code knows the size of every group, and has those of one size side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gqasearch.grouping import LayerGrouping
from gqasearch.models import HeadGeometry, LayerWeights
from gqasearch.models.whole_norm import in_more_slots

Slots = tuple[int | None, ...]


@dataclass(frozen=True)
class Layout:
    """Query head slots of every layer of a converted model.

    ``slots`` (L, query heads of the layer): source query head in every slot, None for an empty one;
    ``kv_heads_per_layer`` (L,): G of every layer, one number in stock layouts; ``reason``: why this layout
    and what it costs, in one sentence; ``groups`` (L, G): the grouping's group at every KV head, in the grouping's own
    order where nothing is given. ``value_heads_per_layer`` (L,): of value heads where keys and values were grouped
    apart, and ``kv_heads_per_layer`` has the numbers of key heads; () where both are as many.
    """

    name: str
    slots: tuple[Slots, ...]
    kv_heads_per_layer: tuple[int, ...]
    reason: str
    groups: tuple[tuple[int, ...], ...] = ()
    value_heads_per_layer: tuple[int, ...] = ()

    def lay_out(self, merged: LayerWeights, layer: int) -> LayerWeights:
        """``merged`` with the query and KV heads of this layer in their places."""
        return lay_out(merged, self.slots[layer], self.groups[layer] if self.groups else None)

    @property
    def query_heads(self) -> int:
        """Slots of the layer that has most, empty ones counted; as many in every layer but for ``openelm``."""
        return max(map(len, self.slots))

    @property
    def kv_heads(self) -> int:
        """KV heads of the layer that has most."""
        return max(self.kv_heads_per_layer)

    @property
    def kv_heads_words(self) -> str:
        """``3``, or ``2 to 5`` where layers differ; of key heads and value heads apart ``3 key and 3 value``."""
        if self.value_heads_per_layer:
            return f"{_range(self.kv_heads_per_layer)} key and {_range(self.value_heads_per_layer)} value"
        return _range(self.kv_heads_per_layer)

    def value_heads(self, layer: int) -> int:
        """Value heads of this layer."""
        return (self.value_heads_per_layer or self.kv_heads_per_layer)[layer]


def _range(counts: Sequence[int]) -> str:
    fewest, most = min(counts), max(counts)
    return str(most) if fewest == most else f"{fewest} to {most}"


def slots(layer: LayerGrouping, largest: int, queries_per_kv: int) -> Slots:
    """Source query head of every slot, (G * largest * queries_per_kv,); None where the slot is empty.

    ``largest``: heads that every group gets room for. Raises ``ValueError`` when a group is larger.
    """
    if max(layer.sizes) > largest:
        raise ValueError(f"a group has {max(layer.sizes)} heads, there is room for {largest}")
    return place(layer, largest * queries_per_kv, queries_per_kv)


def place(layer: LayerGrouping, room: int, queries_per_kv: int, order: Sequence[int] | None = None) -> Slots:
    """Groups in ``order``, each filled up to ``room`` slots; larger groups, and all with room 0, get no empty ones."""
    filled: list[int | None] = []
    for group in range(layer.num_groups) if order is None else order:
        queries = [head * queries_per_kv + query for head in layer.groups[group] for query in range(queries_per_kv)]
        filled += [*queries, *[None] * (room - len(queries))]
    return tuple(filled)


def added_weights(query_heads: int, geometry: HeadGeometry) -> int:
    """Zeros that so many query heads per layer add to the query and output projections of all layers."""
    added = query_heads - geometry.num_attention_heads
    return 2 * added * geometry.head_dim * geometry.hidden_size * geometry.num_layers


def lay_out(merged: LayerWeights, placed: Slots, groups: Sequence[int] | None = None) -> LayerWeights:
    """The merged layer with its query heads in their slots: q, o (Hq, ...) -> (slots, ...).

    ``groups``: which KV head goes where, none moves if not given.
    """
    used = [slot for slot, query in enumerate(placed) if query is not None]
    queries = [query for query in placed if query is not None]

    def in_slots(heads: Tensor) -> Tensor:
        out = heads.new_zeros(len(placed), *heads.shape[1:])
        out[torch.tensor(used)] = heads[torch.tensor(queries)]
        return out

    q_bias = None if merged.q_bias is None else in_slots(merged.q_bias)
    placed_queries = replace(
        merged,
        q=in_slots(merged.q),
        o=in_slots(merged.o),
        q_bias=q_bias,
        q_norms=None if merged.q_norms is None else in_slots(merged.q_norms),
        sinks=None if merged.sinks is None else in_slots(merged.sinks),
        q_rows=None if merged.q_rows is None else in_more_slots(in_slots(merged.q_rows), len(queries)),
        q_gain=None if merged.q_gain is None else in_slots(merged.q_gain),
    )
    if groups is None:
        return placed_queries
    order = torch.tensor(groups)
    return replace(
        placed_queries,
        k=merged.k[order],
        v=merged.v[order],
        k_bias=None if merged.k_bias is None else merged.k_bias[order],
        k_norms=None if merged.k_norms is None else merged.k_norms[order],
        k_rows=None if merged.k_rows is None else merged.k_rows[order],
        k_gain=None if merged.k_gain is None else merged.k_gain[order],
        v_bias=None if merged.v_bias is None else merged.v_bias[order],
    )
