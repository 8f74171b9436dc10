"""Where the query heads go, so that stock GQA code finds the right KV head for each.

Stock code gives KV head ``g`` the query heads ``g * n .. (g + 1) * n - 1``, the same ``n`` for all. So
the query heads of a group must stand together, and a group smaller than the largest is filled up:

    groups {0,2} {1,3}        symmetric:  q0 q2 | q1 q3
    groups {0,2,3} {1}        padded:     q0 q2 q3 | q1 -- --      -- : zero q rows, zero o columns

An empty slot attends evenly and adds nothing to the output: its columns of ``o`` are zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import HeadGeometry, LayerWeights

Slots = tuple[int | None, ...]


@dataclass(frozen=True)
class Layout:
    """Query head slots of every layer of a converted model.

    ``slots`` (L, query_heads): source query head in every slot, None for an empty one; ``kv_heads``: G,
    the same in every layer; ``reason``: why this layout, in one sentence.
    """

    name: Literal["stock-symmetric", "stock-padded"]
    slots: tuple[Slots, ...]
    kv_heads: int
    reason: str

    @property
    def query_heads(self) -> int:
        """Slots per layer, empty ones counted."""
        return len(self.slots[0])


def slots(layer: LayerGrouping, largest: int, queries_per_kv: int) -> Slots:
    """Source query head of every slot, (G * largest * queries_per_kv,); None where the slot is empty.

    ``largest``: heads that every group gets room for. Raises ``ValueError`` when a group is larger.
    """
    if max(layer.sizes) > largest:
        raise ValueError(f"a group has {max(layer.sizes)} heads, there is room for {largest}")
    filled: list[int | None] = []
    for heads in layer.groups:
        filled += [head * queries_per_kv + query for head in heads for query in range(queries_per_kv)]
        filled += [None] * ((largest - len(heads)) * queries_per_kv)
    return tuple(filled)


def plan_layout(grouping: Grouping, geometry: HeadGeometry) -> Layout:
    """The stock layout of this grouping.

    Raises ``UserError`` when layers differ in their number of groups: stock configurations have one
    ``num_key_value_heads`` for the whole model.
    """
    counts = grouping.group_counts
    if len(set(counts)) > 1:
        raise UserError(
            "a stock checkpoint has one number of KV heads for all layers, but this grouping has "
            f"{min(counts)} to {max(counts)} (by layer: {', '.join(map(str, counts))}). Search with --kv-ratio or "
            "--kv-heads, which give every layer the same number"
        )
    largest = max(size for layer in grouping for size in layer.sizes)
    placed = tuple(slots(layer, largest, geometry.queries_per_kv) for layer in grouping)
    if len(placed[0]) == geometry.num_attention_heads:
        reason = f"All groups have {largest} heads: query heads are reordered, none is added."
        return Layout("stock-symmetric", placed, counts[0], reason)
    reason = (
        f"Groups differ in size, the largest has {largest} heads: every group gets room for that many, "
        f"{len(placed[0])} query heads in place of {geometry.num_attention_heads}, the added ones zero."
    )
    return Layout("stock-padded", placed, counts[0], reason)


def lay_out(merged: LayerWeights, placed: Slots) -> LayerWeights:
    """The merged layer with its query heads in their slots: q, o (Hq, ...) -> (slots, ...)."""
    used = [slot for slot, query in enumerate(placed) if query is not None]
    queries = [query for query in placed if query is not None]

    def place(heads: Tensor) -> Tensor:
        out = heads.new_zeros(len(placed), *heads.shape[1:])
        out[torch.tensor(used)] = heads[torch.tensor(queries)]
        return out

    q_bias = None if merged.q_bias is None else place(merged.q_bias)
    return replace(merged, q=place(merged.q), o=place(merged.o), q_bias=q_bias)
