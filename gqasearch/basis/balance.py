"""Every layer of a converted model in the basis in which its rounded cache hurts least, one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gqasearch.basis.attention_cost import AttentionCost
from gqasearch.basis.centred import centred_keys
from gqasearch.basis.fit import Fit, fitted_basis
from gqasearch.basis.rounding_cost import SideCost
from gqasearch.basis.sample import of_one_length, sides_of
from gqasearch.basis.turned_layer import in_basis
from gqasearch.calibration import Ascent, TokenBlocks, no_progress
from gqasearch.models import LayerWeights, Parent, layers_replaced, tie_heads
from gqasearch.models.attention_inputs import AttentionInputs, attention_noted, require_noted
from gqasearch.refining.refined_layers import RefinedLayers
from gqasearch.rounding import KVFormat
from gqasearch.separate_grouping import AnyGrouping, AnyLayer

BATCH_BLOCKS = 4  # that pass through the model together


@dataclass(frozen=True)
class Balance:
    """How the basis is found: from ``tokens`` of the calibration text, by steps of Adam on ``batch`` blocks each.

    ``key_steps`` run attention, ``value_steps`` do not. Which blocks, and in which order, follows from ``seed``.
    """

    tokens: int = 8192
    key_steps: int = 200
    value_steps: int = 400
    batch: int = 2
    seed: int = 0


# The best of the closed forms and of leaving the basis as it is, by what they cost under the format's own rounding.
CLOSED = Balance(key_steps=0, value_steps=0)


def balanced_layers(
    parent: Parent,
    grouping: AnyGrouping,
    layer_of: Callable[[int], LayerWeights],
    blocks: TokenBlocks,
    kv: KVFormat,
    folder: Path,
    balance: Balance = Balance(),
    progress: Callable[[int, int], None] = no_progress,
) -> Mapping[int, LayerWeights]:
    """All layers, those in which nothing is shared too: the same function, k and v (G, ...) in another basis.

    ``layer_of(i)``: layer i after merge and refinement; ``kv``: how the cache will be rounded. ``folder``: where they
    lie, and what was stopped is gone on from: layers that are there are not made again. Raises ``UserError`` where the
    engine refuses the model's heads, and of a model whose attention cannot be seen (``require_noted``).
    """
    kv.check(parent.geometry.head_dim)
    require_noted(parent.config["architectures"][0])
    found, total = RefinedLayers(folder), parent.geometry.num_layers
    if len(found) == total:
        progress(total, total)
        return found
    with torch.no_grad():
        ascent = Ascent(parent, blocks.first(balance.tokens), BATCH_BLOCKS, folder.with_name(f"{folder.name}-stream"))
        layers: Sequence[AnyLayer] = grouping.layers
        for index, layer in enumerate(layers):
            own = layer_of(index)
            tied = tie_heads(own, layer, parent.geometry.queries_per_kv)
            with (
                parent.layer_loaded(index),
                layers_replaced(parent, {index: tied}),
                attention_noted(parent, index) as calls,
            ):
                ascent.advance()
            ascent.forget_below()
            if index not in found:
                masks = [batch.mask for batch in ascent.batches]
                found.put(index, balanced_layer(parent, own, layer, calls, masks, kv, balance))
            progress(index + 1, total)
    return found


def balanced_layer(
    parent: Parent,
    weights: LayerWeights,
    layer: AnyLayer,
    calls: Sequence[AttentionInputs],
    masks: Sequence[Tensor],
    kv: KVFormat,
    balance: Balance,
) -> LayerWeights:
    """One layer. ``calls``: of its attention with tied heads; ``masks``: (B, T) bool of each, False on padding."""
    queries, kv = parent.geometry.queries_per_kv, kv.side_by_side() if parent.family.pairs_side_by_side else kv
    keys_of, values_of = (
        [label for label in partition.labels for _ in range(queries)] for partition in (layer.keys, layer.values)
    )
    order = parent.family.cached_order(weights.head_dim, weights.rotary_dim).to(weights.k.device)
    ours = torch.argsort(order)
    calls = [replace(call, query=call.query[..., ours], key=call.key[..., ours]) for call in calls]
    calls, masks = of_one_length(calls, masks)
    weights, calls = centred_keys(weights, layer.keys.labels, calls, masks)
    keys, values = sides_of(calls, masks, weights, keys_of, values_of)
    for_keys, for_values = (
        Fit(steps, balance.batch, torch.Generator().manual_seed(balance.seed))
        for steps in (balance.key_steps, balance.value_steps)
    )
    plain = torch.arange(values.rows.shape[-1], device=order.device)
    of_values = fitted_basis(values, SideCost(values, kv.v, plain), 0, for_values)
    if weights.norm_of_keys is None:
        measured = AttentionCost(calls, masks, weights, keys_of, kv.k, order)
        of_keys = fitted_basis(keys, measured, weights.rotary_dim, for_keys)
    else:  # a norm, whose weights are not of a basis, stands between W_k and the cache
        of_keys = torch.eye(weights.head_dim).to(of_values).expand(len(weights.k), -1, -1)
    return in_basis(weights, of_keys, of_values, keys_of, values_of)
