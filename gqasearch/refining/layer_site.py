"""One layer's attention, called as the converted model calls it, with any weights and their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from gqasearch.calibration import TensorFiles
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

    def with_wanted(self, wanted: Tensor) -> AttentionCall:
        """The same call, from which something else is wanted."""
        return replace(self, wanted=wanted)


class StoredCalls(Sequence[AttentionCall]):
    """One layer's calls, batch by batch; what they read and what they should add comes back when it is asked for."""

    def __init__(self, folder: Path, device: torch.device, room: int) -> None:
        self._frames: list[AttentionCall] = []
        self._inputs = TensorFiles(folder / "inputs", room // 2, device)
        self._wanted = TensorFiles(folder / "wanted", room // 2, device)

    def __len__(self) -> int:
        return len(self._frames)

    def append(self, call: AttentionCall) -> None:
        self._inputs.append(call.hidden)
        self._wanted.append(call.wanted)
        self._frames.append(call.with_hidden(call.hidden.new_empty(0)).with_wanted(call.wanted.new_empty(0)))

    def __getitem__(self, index: int) -> AttentionCall:  # type: ignore[override]  # no slices
        return self._frames[index].with_hidden(self._inputs[index]).with_wanted(self._wanted[index])

    def __iter__(self) -> Iterator[AttentionCall]:
        return (self[index] for index in range(len(self)))

    def remove(self) -> None:
        """Forget them all."""
        self._inputs.remove()
        self._wanted.remove()


@dataclass(frozen=True)
class LayerSite:
    """A grouped layer of the converted model and all it is called with.

    ``labels``: the layer's partition. ``dtype``: what everything here is computed in, whatever the
    parent runs in. The module's own parameters enter as constants: they never get a gradient.
    """

    parent: Parent
    index: int
    labels: tuple[int, ...]
    calls: Sequence[AttentionCall]
    constants: dict[str, Tensor]
    dtype: torch.dtype

    @classmethod
    def at(cls, parent: Parent, index: int, labels: tuple[int, ...], calls: Sequence[AttentionCall]) -> LayerSite:
        """The site of layer ``index``; ``calls`` as ``Streams`` gives them."""
        dtype = compute_dtype(parent)
        path = parent.family.attention_path(index)
        module = parent.model.get_submodule(path)
        given = set(parent.family.layer_tensors(index, parent.config).values())
        tensors = [*module.named_parameters(), *module.named_buffers()]
        constants = {
            name: with_floats(tensor.detach(), dtype) for name, tensor in tensors if f"{path}.{name}" not in given
        }
        return cls(parent, index, labels, calls, constants, dtype)

    def forget(self) -> None:
        """Let go of what the calls read and should add, in memory and on disk."""
        if isinstance(self.calls, StoredCalls):
            self.calls.remove()

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
