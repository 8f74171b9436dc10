"""The descent to what a whole decoder layer gives, after its MLP, in place of what its attention should add."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from gqasearch.calibration.hidden_states import ROOM
from gqasearch.errors import UserError
from gqasearch.models import LayerWeights, decoder_layer
from gqasearch.refining import AttentionCall, Descent, LayerSite, Streams
from gqasearch.refining.ridge import fit_outputs
from gqasearch.refining.whitening import Whitening
from gqasearch.separate_grouping import AnyLayer


@dataclass(frozen=True)
class BlockCall(AttentionCall):
    """One batch at a layer. ``residual``: the converted stream before it, (B, T, D); ``risen``: the parent's after it,
    MLP included. ``wanted`` is what attention has to add, as ever.
    """

    residual: Tensor
    risen: Tensor


class BlockStreams(Streams):
    """Streams whose calls know what a layer stands between."""

    def site(self, index: int, layer: AnyLayer, room: int = ROOM) -> LayerSite:
        site = super().site(index, layer, room)
        calls = [
            BlockCall(call.args, call.kwargs, call.wanted, call.mask, before.to(site.dtype), after.to(site.dtype))
            for call, before, after in zip(site.calls, self.converted.hidden, self.original.hidden, strict=True)
        ]
        site.forget()
        return LayerSite.at(self.parent, index, layer, calls)


@dataclass(frozen=True)
class BlockSite(LayerSite):
    """A layer seen as a whole: ``attend`` gives what attention and the MLP behind it add to the stream."""

    def attend(self, weights: LayerWeights, call: AttentionCall) -> Tensor:
        if not isinstance(call, BlockCall):
            raise TypeError(f"a {type(call).__name__} does not know what the layer stands between")
        attended = super().attend(weights, call)
        return attended + self._behind_attention(call.residual + attended)

    def _behind_attention(self, hidden: Tensor) -> Tensor:
        """What the MLP adds to ``hidden`` (B, T, D)."""
        for module, tensors in self._modules:
            hidden = functional_call(module, tensors, (hidden,))
        return hidden

    @cached_property
    def _modules(self) -> list[tuple[torch.nn.Module, dict[str, Tensor]]]:
        layer = decoder_layer(self.parent, self.index)
        found = [getattr(layer, name, None) for name in ("post_attention_layernorm", "mlp")]
        modules = [module for module in found if isinstance(module, torch.nn.Module)]
        if len(modules) < len(found):
            raise UserError(f"the layers of {self.parent.id} have no post_attention_layernorm and mlp")
        return [(m, {name: p.detach().to(self.dtype) for name, p in m.named_parameters()}) for m in modules]


@dataclass(frozen=True)
class BlockDescent(Descent):
    """The descent with its Adam steps to the parent's stream after the MLP; W_o is fitted to attention's part before
    them, and after them with ``refit``. For sites of ``BlockStreams``.
    """

    refit: bool = False

    def refine_layer(self, site: LayerSite, merged: LayerWeights, step: Callable[[], None]) -> LayerWeights:
        start, _ = fit_outputs(site, merged, self.ridge)
        known: dict[str, Any] = {field.name: getattr(site, field.name) for field in fields(LayerSite)}
        block = BlockSite(**{**known, "calls": _wanting_all(site.calls)})
        moved = self.descend(block, start, Whitening.of(site), step)
        return fit_outputs(site, moved, self.ridge)[0] if self.refit else moved


def _wanting_all(calls: Sequence[AttentionCall]) -> list[AttentionCall]:
    """The same calls, from which what the whole layer should add is wanted."""
    return [call.with_wanted(call.risen - call.residual) for call in calls if isinstance(call, BlockCall)]
