"""Merge a layer by its weights alone, one group at a time."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gqasearch.grouping import LayerGrouping
from gqasearch.merging import Merge
from gqasearch.merging.selected import OF_HEADS, partitions_of, queries_of, selected
from gqasearch.models import LayerWeights
from gqasearch.separate_grouping import AnyLayer


def merged_by_group(merge: Merge, weights: LayerWeights, layer: AnyLayer) -> LayerWeights:
    """What ``merge.for_layer(weights).merge(layer)`` gives of float32 (or wider) weights, in their own dtypes.

    For a ``merge`` that needs weights alone. What becomes of a group depends on no other head, so one group at a time
    is held in the merge's float64: a whole layer would take four times the memory of its bfloat16.
    """
    wide = torch.promote_types(weights.q.dtype, torch.float32)
    merged = replace(
        weights,
        q=torch.empty_like(weights.q),
        o=torch.empty_like(weights.o),
        q_bias=None if weights.q_bias is None else torch.empty_like(weights.q_bias),
        q_norms=None if weights.q_norms is None else torch.empty_like(weights.q_norms),
        k=_room(weights.k, layer.keys),
        k_norms=None if weights.k_norms is None else _room(weights.k_norms, layer.keys),
        v=_room(weights.v, layer.values),
        k_bias=None if weights.k_bias is None else _room(weights.k_bias, layer.keys),
        v_bias=None if weights.v_bias is None else _room(weights.v_bias, layer.values),
    )
    for partition, roles in partitions_of(layer):
        for index, heads in enumerate(partition.groups):
            queries = queries_of(weights, heads)
            group = merge.for_layer(selected(weights, heads).to(wide)).merge(LayerGrouping.neighbours(len(heads), 1))
            for role in roles:
                if (of_all := getattr(merged, role)) is not None:
                    of_all[[index] if role in OF_HEADS else queries] = getattr(group, role).to(of_all.dtype)
    return merged


def _room(heads: Tensor, partition: LayerGrouping) -> Tensor:
    return heads.new_empty(partition.num_groups, *heads.shape[1:])
