"""Every attention block of the parent by itself: what it is given on a text, and what it gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks
from gqasearch.models import (
    LayerWeights,
    Parent,
    decoder_layer,
    layers_replaced,
    output_projection,
    outputs_noted,
    stream_after,
)


@dataclass(frozen=True)
class _Call:
    """One call of an attention block: its arguments, what it added (tokens, D), and which tokens count.

    ``residual_energy``: of the residual stream just after it, ||r||^2 summed over these tokens.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor
    mask: Tensor
    residual_energy: float


@dataclass(frozen=True)
class Attended:
    """One batch through a layer: ``output`` (tokens, D) is what the block gives, ``parent`` (tokens, D) what the
    parent's own gave.
    """

    output: Tensor
    parent: Tensor


class AttentionCalls:
    """Recorded in one pass of the parent over ``blocks``; keeps 2 * layers * tokens * D values."""

    def __init__(self, parent: Parent, blocks: TokenBlocks, *, batch_blocks: int = 8) -> None:
        self.parent = parent
        self._calls: list[list[_Call]] = [[] for _ in range(parent.geometry.num_layers)]
        for ids, mask in blocks.batches(batch_blocks):
            self._record(ids, mask)

    def _record(self, ids: Tensor, mask: Tensor) -> None:
        device = self.parent.device
        mask = mask.to(device)

        stream: list[Tensor] = []
        added: list[Tensor] = []

        def before_layer(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            stream.append(args[0] if args else kwargs["hidden_states"])

        def after_attention(index: int, calls: list[_Call]) -> Any:
            def hook(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any) -> None:
                residual = stream_after(self.parent, index, stream.pop(), added[0])
                energy = float(residual[mask].double().square().sum())
                calls.append(_Call(args, kwargs, added.pop()[mask], mask, energy))

            return hook

        handles = []
        for index, calls in enumerate(self._calls):
            layer = decoder_layer(self.parent, index)
            handles.append(layer.register_forward_pre_hook(before_layer, with_kwargs=True))
            handles.append(
                output_projection(self.parent, index).register_forward_hook(lambda _m, _args, out: added.append(out))
            )
            handles.append(
                self._attention(index).register_forward_hook(after_attention(index, calls), with_kwargs=True)
            )
        try:
            with torch.no_grad():
                self.parent.model(input_ids=ids.to(device), attention_mask=mask.long(), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()

    def _attention(self, index: int) -> torch.nn.Module:
        return self.parent.model.get_submodule(self.parent.family.attention_path(index))

    def residual_energy(self, index: int) -> float:
        """E||r||^2 of the parent's residual stream just after a layer's attention."""
        calls = self._calls[index]
        return sum(call.residual_energy for call in calls) / sum(len(call.output) for call in calls)

    def run(self, index: int, tied: LayerWeights) -> Iterator[Attended]:
        """A layer with other weights, in the parent's shape, on the parent's own inputs; padding is left out."""
        projection = output_projection(self.parent, index)
        with torch.no_grad(), layers_replaced(self.parent, {index: tied}), outputs_noted(projection) as added:
            for call in self._calls[index]:
                self._attention(index)(*call.args, **call.kwargs)
                yield Attended(added.pop()[call.mask], call.output)
