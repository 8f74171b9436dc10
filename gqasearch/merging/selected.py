"""A part of a layer: some heads, with the queries that they carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gqasearch.grouping import LayerGrouping
from gqasearch.models import LayerWeights
from gqasearch.separate_grouping import AnyLayer, Side

OF_QUERIES = ("q", "o", "q_bias", "q_norms")
OF_HEADS = ("k", "v", "k_bias", "v_bias", "k_norms")
# What follows the partition of the key heads, and that of the value heads.
OF_SIDE: dict[Side, tuple[str, ...]] = {
    "keys": ("k", "k_bias", "k_norms", "q", "q_bias", "q_norms"),
    "values": ("v", "v_bias", "o"),
}


def partitions_of(layer: AnyLayer) -> list[tuple[LayerGrouping, tuple[str, ...]]]:
    """The partitions of a layer's heads, with the tensors that go by each."""
    if isinstance(layer, LayerGrouping):
        return [(layer, (*OF_HEADS, *OF_QUERIES))]
    return [(layer.keys, OF_SIDE["keys"]), (layer.values, OF_SIDE["values"])]


def queries_of(weights: LayerWeights, heads: Sequence[int]) -> list[int]:
    """The query heads that these heads of a source layer carry, in order."""
    return [query for head in heads for query in weights.queries_of(head)]


def selected(weights: LayerWeights, heads: Sequence[int]) -> LayerWeights:
    """These n heads of a source layer and their m queries as a layer of their own, copied: k (n, d, D), q (m, d, D)."""
    places = {
        **dict.fromkeys(OF_HEADS, torch.tensor(list(heads), device=weights.k.device)),
        **dict.fromkeys(OF_QUERIES, torch.tensor(queries_of(weights, heads), device=weights.k.device)),
    }
    chosen: dict[str, Any] = {
        role: tensor.index_select(0, index)
        for role, index in places.items()
        if (tensor := getattr(weights, role)) is not None
    }
    return replace(weights, **chosen)


def held_bytes(*things: object) -> int:
    """Memory of all tensors that these objects of ours hold, themselves or in their fields; each tensor once."""
    found: dict[int, int] = {}
    waiting = list(things)
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, Tensor):
            found[thing.data_ptr()] = thing.nbytes
        elif type(thing).__module__.startswith("gqasearch.") and hasattr(thing, "__dict__"):
            waiting.extend(vars(thing).values())
    return sum(found.values())
