"""The text in two streams, the parent's and the converted model's, moved upwards a layer at a time.

Up to the first grouped layer the two are one. While a layer is refined four values per token and hidden
dimension are kept: both streams, what its attention reads and what it should add.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks
from gqasearch.models import (
    Arguments,
    LayerWeights,
    Parent,
    enter,
    layers_replaced,
    output_projection,
    outputs_noted,
    run_layer,
    wanted_of_attention,
)
from gqasearch.refining.layer_site import AttentionCall, LayerSite, compute_dtype, with_floats


class _Reached(Exception):  # noqa: N818 - no error: it ends a forward pass that has gone far enough
    """The attention module was called."""


@dataclass
class _Batch:
    """One batch in both streams: hidden states (B, T, D), the mask, and the arguments of every decoder layer."""

    parent: Tensor
    converted: Tensor
    mask: Tensor
    arguments: tuple[Arguments, ...]


class Streams:
    """Hidden states before the layer that is next; no gradients. ``batch_blocks``: blocks per forward pass."""

    def __init__(self, parent: Parent, blocks: TokenBlocks, batch_blocks: int) -> None:
        self._parent = parent
        self._one = True  # no layer was converted yet: both streams are the parent's
        # Per batch, what attention has to add for the parent's stream, at the layer that the parent's passed last.
        self._wanted: list[Tensor] = []
        self._batches = [_start(parent, ids, mask) for ids, mask in blocks.batches(batch_blocks)]

    def advance_parent(self, index: int) -> None:
        """Move the parent's stream past layer ``index``."""
        dtype = compute_dtype(self._parent)
        self._wanted = []
        with outputs_noted(output_projection(self._parent, index)) as added:
            for batch in self._batches:
                behind = batch.parent.to(dtype) - batch.converted.to(dtype)
                batch.parent = self._run(index, batch.parent, batch)
                self._wanted.append(wanted_of_attention(self._parent, index, behind, added.pop().to(dtype)))

    def site(self, index: int, labels: tuple[int, ...]) -> LayerSite:
        """Layer ``index``, which the parent's stream has passed last and the converted one has yet to pass."""
        return LayerSite.at(self._parent, index, labels, self._attention_calls(index))

    def _attention_calls(self, index: int) -> list[AttentionCall]:
        attention = self._attention(index)
        seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def note(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append((args, kwargs))
            raise _Reached  # what follows in the layer is not needed

        handle = attention.register_forward_pre_hook(note, with_kwargs=True)
        dtype = compute_dtype(self._parent)
        calls: list[AttentionCall] = []
        try:
            for batch in self._batches:
                with suppress(_Reached):
                    self._run(index, batch.converted, batch)
                args, kwargs = with_floats(seen.pop(), dtype)
                calls.append(AttentionCall(args, kwargs, self._wanted.pop(0), batch.mask))
        finally:
            handle.remove()
        return calls

    def advance_converted(self, index: int, layer: LayerWeights | None) -> None:
        """Move the converted stream past layer ``index``, where the parent's is already.

        ``layer``: the layer's tied weights; None for the parent's own.
        """
        self._one = self._one and layer is None
        with layers_replaced(self._parent, {} if layer is None else {index: layer}):
            for batch in self._batches:
                batch.converted = batch.parent if self._one else self._run(index, batch.converted, batch)

    def _attention(self, index: int) -> torch.nn.Module:
        return self._parent.model.get_submodule(self._parent.family.attention_path(index))

    def _run(self, index: int, hidden: Tensor, batch: _Batch) -> Tensor:
        """One decoder layer, (B, T, D) -> (B, T, D)."""
        return run_layer(self._parent, index, hidden, batch.arguments[index])


def _start(parent: Parent, ids: Tensor, mask: Tensor) -> _Batch:
    entered = enter(parent, ids, mask)
    return _Batch(entered.hidden, entered.hidden, mask.to(parent.device), entered.arguments)
