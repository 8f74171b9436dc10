"""Refit W_o of every grouped layer to the parent's residual stream, from the input upwards.

After all groups of a layer are merged, its heads still give Z (tokens, Hq dv), only not quite what W_o
was made for. The best W_o for what they give is a ridge regression, and it may as well aim at what the
parent's residual stream is just after this layer's attention: so the errors of the layers below are
corrected here and not added up.

    W = argmin_W  E||r_parent - h - W z||^2 + ridge * mean(diag E[z z^T]) * ||W - W_merged||^2

h: what enters the layer of the converted model. Hidden states of the calibration text are kept for two
streams, the parent's and the converted model's: 2 * tokens * D values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks, no_progress
from gqasearch.grouping import Grouping
from gqasearch.models import LayerWeights, Parent, layers_replaced, tie_heads


@dataclass
class _Batch:
    """One batch in both streams: hidden states (B, T, D), the mask, and the arguments of every layer."""

    parent: Tensor
    converted: Tensor
    mask: Tensor
    arguments: list[dict[str, Any]]


def refit_outputs(
    parent: Parent,
    grouping: Grouping,
    merged_layer: Callable[[int], LayerWeights],
    blocks: TokenBlocks,
    *,
    ridge: float = 1e-3,
    batch_blocks: int = 8,
    progress: Callable[[int, int], None] = no_progress,
) -> dict[int, Tensor]:
    """W_o (Hq, D, dv), float32, of every layer that the grouping changes.

    ``merged_layer(i)``: layer i after its merge. The parent's layers run once over ``blocks``, the
    converted ones twice.
    """
    found: dict[int, Tensor] = {}
    with torch.no_grad():
        batches = [_start(parent, ids, mask) for ids, mask in blocks.batches(batch_blocks)]
        for index, layer in enumerate(grouping):
            targets = [_advance_parent(parent, index, batch) for batch in batches]
            replaced: dict[int, LayerWeights] = {}
            if layer.num_groups < layer.num_heads:
                tied = tie_heads(merged_layer(index), layer.labels, parent.geometry.queries_per_kv)
                with layers_replaced(parent, {index: tied}):
                    found[index] = _solve(parent, index, tied, batches, targets, ridge)
                replaced = {index: replace(tied, o=found[index].to(tied.o))}
            with layers_replaced(parent, replaced):
                for batch in batches:
                    batch.converted = _run_layer(parent, index, batch.converted, batch)
            progress(index + 1, len(grouping))
    return found


def _solve(
    parent: Parent, index: int, tied: LayerWeights, batches: list[_Batch], targets: list[Tensor], ridge: float
) -> Tensor:
    """The ridge regression of one layer, whose merged weights are in place."""
    start = tied.o.transpose(0, 1).flatten(1).double()  # (D, Hq dv), as W_o is stored
    gram, cross, tokens = start.new_zeros(start.shape[1], start.shape[1]), torch.zeros_like(start), 0
    seen: list[Tensor] = []
    projection = parent.model.get_submodule(parent.family.tensor_name(index, "o.weight").removesuffix(".weight"))
    handle = projection.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    try:
        for batch, target in zip(batches, targets, strict=True):
            _run_layer(parent, index, batch.converted, batch)
            z = seen.pop()[batch.mask].double()
            wanted = (target - batch.converted)[batch.mask].double()
            gram += z.T @ z
            cross += wanted.T @ z
            tokens += len(z)
    finally:
        handle.remove()
    penalty = ridge * gram.diagonal().mean()
    gram.diagonal().add_(penalty.clamp_min(torch.finfo(gram.dtype).tiny))
    solved = torch.linalg.solve(gram, cross + penalty * start, left=False)
    by_head: Tensor = solved.unflatten(1, (tied.q.shape[0], -1)).transpose(0, 1)
    return by_head.float()


def _block(parent: Parent, index: int) -> torch.nn.Module:
    """The decoder layer around one attention block."""
    return parent.model.get_submodule(parent.family.attention_path(index).rpartition(".")[0])


def _run_layer(parent: Parent, index: int, hidden: Tensor, batch: _Batch) -> Tensor:
    """One decoder layer, (B, T, D) -> (B, T, D)."""
    output = _block(parent, index)(hidden, **batch.arguments[index])
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result


def _advance_parent(parent: Parent, index: int, batch: _Batch) -> Tensor:
    """Move the parent's stream past one layer; returns it as it was just after attention."""
    added: list[Tensor] = []
    attention = parent.model.get_submodule(parent.family.attention_path(index))
    handle = attention.register_forward_hook(lambda _module, _args, output: added.append(output[0]))
    try:
        before = batch.parent
        batch.parent = _run_layer(parent, index, before, batch)
    finally:
        handle.remove()
    return before + added[0]


def _start(parent: Parent, ids: Tensor, mask: Tensor) -> _Batch:
    """Run the whole parent once, to see what every layer is called with."""
    calls: list[tuple[Tensor, dict[str, Any]]] = []

    def note(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        calls.append((args[0] if args else kwargs["hidden_states"], rest))

    layers = range(parent.geometry.num_layers)
    handles = [_block(parent, index).register_forward_pre_hook(note, with_kwargs=True) for index in layers]
    try:
        parent.model(input_ids=ids.to(parent.device), attention_mask=mask.long().to(parent.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    hidden = calls[0][0]
    return _Batch(hidden, hidden, mask.to(parent.device), [arguments for _, arguments in calls])
