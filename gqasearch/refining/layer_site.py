"""One layer's attention, called as the converted model calls it, with any weights and their gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from gqasearch.models import LayerWeights, Parent, output_projection, outputs_noted, tie_heads


@dataclass(frozen=True)
class AttentionCall:
    """One batch at a layer: the arguments of its attention module, and what that should give.

    ``wanted`` (B, T, D): r_parent - h, what attention has to add for the parent's residual stream.
    ``mask`` (B, T) bool: False on padding, which never counts.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    wanted: Tensor
    mask: Tensor

    @property
    def hidden(self) -> Tensor:
        """x (B, T, D): the input of the attention module, after the norm."""
        found: Tensor = self.args[0] if self.args else self.kwargs["hidden_states"]
        return found

    def with_hidden(self, hidden: Tensor) -> AttentionCall:
        """The same call on another x."""
        if self.args:
            return replace(self, args=(hidden, *self.args[1:]))
        return replace(self, kwargs={**self.kwargs, "hidden_states": hidden})


@dataclass(frozen=True)
class LayerSite:
    """A grouped layer of the converted model and all it is called with.

    ``labels``: the layer's partition. ``dtype``: what everything here is computed in, whatever the
    parent runs in. The module's own parameters enter as constants: they never get a gradient.
    """

    parent: Parent
    index: int
    labels: tuple[int, ...]
    calls: list[AttentionCall]
    constants: dict[str, Tensor]
    dtype: torch.dtype

    @classmethod
    def at(cls, parent: Parent, index: int, labels: tuple[int, ...], calls: list[AttentionCall]) -> LayerSite:
        """The site of layer ``index``; ``calls`` as ``Streams.attention_calls`` gives them."""
        dtype = compute_dtype(parent)
        module = parent.model.get_submodule(parent.family.attention_path(index))
        tensors = [*module.named_parameters(), *module.named_buffers()]
        constants = {name: with_floats(tensor.detach(), dtype) for name, tensor in tensors}
        return cls(parent, index, labels, calls, constants, dtype)

    @property
    def attention(self) -> torch.nn.Module:
        return self.parent.model.get_submodule(self.parent.family.attention_path(self.index))

    @property
    def projection(self) -> torch.nn.Module:
        """The module of W_o."""
        return output_projection(self.parent, self.index)

    @property
    def output_bias(self) -> Tensor | None:
        """The bias (D,) that W_o's module adds, which no merge or refinement changes; None where there is none."""
        prefix = self.parent.family.attention_path(self.index) + "."
        return self.constants.get(self._name("o.bias").removeprefix(prefix))

    def attend(self, weights: LayerWeights, call: AttentionCall) -> Tensor:
        """What attention adds to the stream, (B, T, D), for grouped ``weights`` (k, v (G, ...)) in ``dtype``."""
        family = self.parent.family
        tied = tie_heads(weights, self.labels, self.parent.geometry.queries_per_kv)
        prefix = family.attention_path(self.index) + "."
        written = {name.removeprefix(prefix): t for name, t in family.write_layer(tied, self.index).items()}
        with outputs_noted(self.projection) as added:
            functional_call(self.attention, {**self.constants, **written}, call.args, dict(call.kwargs))
        return added[0]

    def _name(self, role: str) -> str:
        return self.parent.family.tensor_name(self.index, role)


def compute_dtype(parent: Parent) -> torch.dtype:
    """float32, or the parent's own dtype if that is wider."""
    return torch.promote_types(parent.model.dtype, torch.float32)


def with_floats(value: Any, dtype: torch.dtype) -> Any:
    """``value`` with every floating tensor in it, at any depth of tuples, lists and dicts, cast to ``dtype``."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(with_floats(item, dtype) for item in value)
    if isinstance(value, dict):
        return {name: with_floats(item, dtype) for name, item in value.items()}
    return value
