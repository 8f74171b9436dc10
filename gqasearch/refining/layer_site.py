"""One layer's attention, called as the converted model calls it, with any weights and their gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from gqasearch.calibration import TensorFiles
from gqasearch.grouping import LayerGrouping
from gqasearch.models import (
    HeadGeometry,
    LayerWeights,
    Parent,
    output_projection,
    outputs_noted,
    rounded_arguments,
    tie_heads,
)
from gqasearch.models.precision import has_bfloat16
from gqasearch.rounding import KVFormat
from gqasearch.separate_grouping import AnyLayer

# Of layers fitted in bfloat16 and begun on a part of the text: narrower ones gain little time and lose some quality.
LEAST_WIDTH = 1024
HIDDEN = "hidden_states"
PART_PER_INPUT = 4  # tokens per unknown of every row of W_o: enough to start from
# Tokens per unknown under which a fit is checked on calls that it did not see: with fewer it was found to fit the text.
AMPLE_PER_INPUT = 50
HELD_OUT = 4  # of so many calls one


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
        found: Tensor = self.args[0] if self.args else self.kwargs[HIDDEN]
        return found

    @cached_property
    def unpadded(self) -> bool:
        """Whether every token counts."""
        return bool(self.mask.all())

    def counted(self, values: Tensor) -> Tensor:
        """Of values (B, T, ...) at every token those that count, (N, ...)."""
        return values.flatten(0, 1) if self.unpadded else values[self.mask]

    def with_hidden(self, hidden: Tensor) -> AttentionCall:
        """The same call on another x."""
        if self.args:
            return replace(self, args=(hidden, *self.args[1:]))
        return replace(self, kwargs={**self.kwargs, HIDDEN: hidden})

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

    ``layer``: the layer's partition, or its two. ``dtype``: what weights and errors are kept in, whatever the
    parent runs in. The module's other parameters enter as constants: they never get a gradient. ``kv``: how the cache
    is rounded from which attention reads its keys and values, with gradients straight through; None for not.
    """

    parent: Parent
    index: int
    layer: AnyLayer
    calls: Sequence[AttentionCall]
    constants: dict[str, Tensor]
    dtype: torch.dtype
    kv: KVFormat | None = None

    @classmethod
    def at(
        cls,
        parent: Parent,
        index: int,
        layer: AnyLayer,
        calls: Sequence[AttentionCall],
        kv: KVFormat | None = None,
    ) -> LayerSite:
        """The site of layer ``index``; ``calls`` as ``Streams`` gives them."""
        dtype = compute_dtype(parent)
        path = parent.family.attention_path(index)
        module = parent.model.get_submodule(path)
        given = set(parent.family.layer_tensors(index, parent.config).values())
        tensors = [*module.named_parameters(), *module.named_buffers()]
        constants = {
            name: with_floats(tensor.detach(), dtype) for name, tensor in tensors if f"{path}.{name}" not in given
        }
        return cls(parent, index, layer, calls, constants, dtype, kv)

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

    def spread_part(self) -> tuple[list[int], list[int]]:
        """Indices of calls spread over the text that hold a part of it, and those of the others.

        A quarter, or ``PART_PER_INPUT`` tokens for each of the inputs of W_o or of the layer where that is more; all of
        it in layers narrower than ``LEAST_WIDTH``, where a part was found to cost 0.5% of KL and to save little.
        """
        geometry, calls = self.parent.geometry, len(self.calls)
        inputs = max(geometry.hidden_size, output_inputs(geometry))
        least = math.ceil(PART_PER_INPUT * inputs / max(1, int(self.calls[0].mask.sum())))
        narrow = geometry.hidden_size < LEAST_WIDTH
        count = calls if narrow else min(calls, max(math.ceil(calls / 4), least))
        part = {index * calls // count for index in range(count)}
        return sorted(part), [index for index in range(calls) if index not in part]

    @cached_property
    def is_scarce(self) -> bool:
        """Whether the text is so short for the layer that a fit may be to this text alone."""
        return is_scarce(sum(int(call.mask.sum()) for call in self.calls), self.parent.geometry)

    def held_out(self) -> list[int]:
        """Indices of calls that a fit is checked on and does not see; none where the text is ample."""
        return held_out(len(self.calls)) if self.is_scarce else []

    @property
    def in_bfloat16(self) -> bool:
        """Whether ``products`` rounds: in layers at least ``LEAST_WIDTH`` wide, on devices made for it."""
        wide = self.parent.geometry.hidden_size >= LEAST_WIDTH
        return wide and self.dtype == torch.float32 and has_bfloat16(self.parent.device)

    def products(self) -> AbstractContextManager[None]:
        """Within the block the matrices of ``attend`` are multiplied in bfloat16, if ``in_bfloat16``.

        Weights, their gradients and sums over tokens stay in ``dtype``.
        """
        return torch.autocast(self.parent.device.type, torch.bfloat16, enabled=self.in_bfloat16)

    def attend(self, weights: LayerWeights, call: AttentionCall) -> Tensor:
        """What attention adds to the stream, (B, T, D), for grouped ``weights`` (k, v (G, ...))."""
        family = self.parent.family
        prefix = family.attention_path(self.index) + "."
        with ExitStack() as stack:
            added = stack.enter_context(outputs_noted(self.projection))
            if {"k", "v"} <= set(family.projections):
                stack.enter_context(self._groups_repeated())
                if weights.k_norms is not None:  # those of the parent's heads follow its projection
                    weights = replace(weights, k_norms=weights.k_norms[list(self.layer.keys.labels)])
            else:
                weights = tie_heads(weights, self.layer, self.parent.geometry.queries_per_kv)
            tensors = family.write_layer(weights, self.index)
            written = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            functional_call(self.attention, {**self.constants, **written}, *self._called(call))
        return added[0]

    def _called(self, call: AttentionCall) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of the attention module, with a rounded cache among them where there is to be one."""
        if self.kv is None:
            return call.args, dict(call.kwargs)
        others = call.args[1:], {name: value for name, value in call.kwargs.items() if name != HIDDEN}
        (_, named), _ = rounded_arguments(self.parent, self.attention, others, call.hidden, self.kv)
        return (call.hidden,), named

    @contextmanager
    def _groups_repeated(self) -> Iterator[None]:
        """Within the block W_k and W_v give (B, T, H d) of weights for G heads, each group's for all of its heads."""

        def repeat(partition: LayerGrouping, _module: torch.nn.Module, _args: Any, output: Tensor) -> Tensor:
            by_group: Tensor = output.unflatten(-1, (partition.num_groups, -1))
            index = torch.tensor(partition.labels, device=output.device)
            return by_group.index_select(-2, index).flatten(-2)

        handles = []
        for role, partition in (("k", self.layer.keys), ("v", self.layer.values)):
            module = self.parent.model.get_submodule(self._name(f"{role}.weight").removesuffix(".weight"))
            handles.append(module.register_forward_hook(partial(repeat, partition)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _name(self, role: str) -> str:
        return self.parent.family.tensor_name(self.index, role)


def output_inputs(geometry: HeadGeometry) -> int:
    """Inputs of W_o: the unknowns of each of its rows."""
    return geometry.num_attention_heads * geometry.head_dim


def is_scarce(tokens: int, geometry: HeadGeometry) -> bool:
    """Whether so many tokens are so few for these layers that a fit may be to this text alone."""
    return tokens < AMPLE_PER_INPUT * output_inputs(geometry)


def held_out(count: int) -> list[int]:
    """Of so many calls or batches those that a fit is checked on, spread over the text."""
    return list(range(HELD_OUT - 1, count, HELD_OUT))


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
