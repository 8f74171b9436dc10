"""Weights on demand: a module reads its own from the files when it is called; they go when others need the room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gqasearch.models.freed_memory import give_back
from gqasearch.models.spread import Spread
from gqasearch.models.tensors import CheckpointTensors, require_finite

ATTRIBUTE = "weights_on_demand"  # of a model: its OnDemand
# A parameter's value, or what reads it by the parameter's name.
Value: TypeAlias = Tensor | Callable[[str], Tensor]


@dataclass(frozen=True)
class _Slot:
    """Where a parameter sits: ``places``, a module and its name there, more than one where weights are tied.

    ``stored``: what the files call it.
    """

    name: str
    stored: str
    dtype: torch.dtype
    places: list[tuple[nn.Module, str]]

    @property
    def parameter(self) -> nn.Parameter:
        owner, own = self.places[0]
        found = owner._parameters[own]  # noqa: SLF001 - nn.Module has no public way to exchange one
        if found is None:
            raise ValueError(f"{self.name} is gone")
        return found

    @property
    def nbytes(self) -> int:
        return self.parameter.numel() * self.dtype.itemsize

    @property
    def is_empty(self) -> bool:
        return self.parameter.is_meta

    def put(self, value: Tensor) -> None:
        shape = self.parameter.shape
        if value.shape != shape:
            raise ValueError(f"{self.name} was computed in shape {tuple(value.shape)}, not {tuple(shape)}")
        parameter = nn.Parameter(value, requires_grad=False)
        for owner, own in self.places:
            owner._parameters[own] = parameter  # noqa: SLF001 - as above

    def empty(self) -> None:
        self.put(torch.empty(self.parameter.shape, dtype=self.dtype, device="meta"))


class OnDemand:
    """The weights of ``model``, which has none in memory yet; ``room``: bytes that may stay on each of its devices.

    Parameters that transformers loaded all the same (none of a matrix's size) stay as they are.
    """

    def __init__(
        self, model: PreTrainedModel, tensors: CheckpointTensors, stored: Mapping[str, str], spread: Spread, room: int
    ) -> None:
        self._spread, self.room = spread, room
        self._tensors = tensors
        self._values: dict[str, Value] = {}  # in place of what is stored
        self._slots: dict[str, tuple[nn.Module, _Slot]] = {}
        self._units: dict[nn.Module, list[_Slot]] = {}
        self._resident: OrderedDict[nn.Module, None] = OrderedDict()  # the last one used is the last
        self._held: set[nn.Module] = set()
        self._running: set[nn.Module] = set()  # those with weights of their own beside those of modules in them
        of_stored: dict[str, _Slot] = {}
        for path, module in model.named_modules():
            for own, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                name = f"{path}.{own}" if path else own
                if parameter.is_meta:
                    slot = of_stored.setdefault(stored[name], _Slot(name, stored[name], parameter.dtype, []))
                    slot.places.append((module, own))
                    self._slots[name] = module, slot
                    self._units.setdefault(module, []).append(slot)
        for slot in of_stored.values():
            slot.empty()  # in all its places
        for unit in self._units:
            unit.register_forward_pre_hook(lambda module, _args: self._need(module))
            if any(one in self._units for one in unit.modules() if one is not unit):  # as attention with sinks
                unit.register_forward_pre_hook(lambda module, _args: self._running.add(module))
                unit.register_forward_hook(lambda module, *_: self._running.discard(module), always_call=True)

    @property
    def device(self) -> torch.device:
        """Where texts enter and predictions leave."""
        return self._spread.devices[0]

    def device_of(self, module: nn.Module) -> torch.device:
        """Where the weights of a module are read to."""
        return self._spread.of(module)

    def _need(self, unit: nn.Module) -> None:
        """Have all of this unit in memory."""
        empty = [slot for slot in self._units[unit] if slot.is_empty]
        if empty:  # else they are there, or the caller of ``functional_call`` has put others in their places
            self._make_room(self._size(unit), unit)
            for slot in empty:
                slot.put(self.read(slot.name))
            self._resident[unit] = None
        if unit in self._resident:
            self._resident.move_to_end(unit)

    def _make_room(self, nbytes: int, unit: nn.Module) -> None:
        beside = [one for one in self._resident if self.device_of(one) == self.device_of(unit)]
        taken = sum(map(self._size, beside))
        kept = {unit, *self._held, *self._running}
        for other in [one for one in beside if one not in kept]:
            if taken + nbytes <= self.room:
                return
            taken -= self._size(other)
            del self._resident[other]
            for slot in self._units[other]:
                slot.empty()
            give_back()

    def _size(self, unit: nn.Module) -> int:
        return sum(slot.nbytes for slot in self._units[unit])

    def read(self, name: str) -> Tensor:
        """A parameter by its name in the model, as the model computes with it."""
        unit, slot = self._slots[name]
        if not slot.is_empty:
            return slot.parameter.detach()
        value = self._values.get(name)
        if value is None:
            value = self._tensors.read(slot.stored)
        elif not isinstance(value, Tensor):
            value = value(name)
        return value.to(self.device_of(unit), slot.dtype)

    def has(self, name: str) -> bool:
        """Whether the parameter is one that is read on demand."""
        return name in self._slots

    @contextmanager
    def held(self, module: nn.Module) -> Iterator[None]:
        """Within the block what is read of this module, and of those in it, stays in memory."""
        new = {one for one in module.modules() if one in self._units} - self._held
        self._held |= new
        try:
            yield
        finally:
            self._held -= new

    def load(self, module: nn.Module) -> None:
        """Read all of this module, and of those in it, now; for who looks at weights without a call."""
        for one in module.modules():
            if one in self._units:
                self._need(one)

    @contextmanager
    def replaced(self, values: Mapping[str, Value]) -> Iterator[None]:
        """Within the block the model computes with these values for the parameters of these names."""
        before = {name: self._slots[name][1].parameter for name in values}
        self._values |= values
        try:
            for name in values:
                self._refill(name)
            yield
        finally:
            for name in values:
                del self._values[name]
                unit, slot = self._slots[name]
                if unit in self._resident and not before[name].is_meta:
                    slot.put(before[name].detach())
                else:
                    slot.empty()

    def replace(self, values: Mapping[str, Value]) -> None:
        """The same for good."""
        self._values |= values
        for name in values:
            self._refill(name)

    def _refill(self, name: str) -> None:
        """Forget what is in memory of a parameter, and read it again where the rest of its layer stays."""
        unit, slot = self._slots[name]
        slot.empty()
        if unit in self._resident:
            slot.put(self.read(name))

    def require_finite(self) -> None:
        """Read everything once; raise ``UserError`` for values that are not finite."""
        for _, slot in self._slots.values():
            require_finite(self.read(slot.name), self._tensors.directory, slot.name)


def on_demand(model: nn.Module) -> OnDemand | None:
    """The weights of a model that ``load_on_demand`` made; None for one whose weights are all in memory."""
    found: OnDemand | None = model.__dict__.get(ATTRIBUTE)
    return found


def device_of(model: nn.Module) -> torch.device:
    """Where a model computes, also while its weights are not in memory."""
    weights = on_demand(model)
    return next(model.parameters()).device if weights is None else weights.device


def replace_weights(model: nn.Module, values: Mapping[str, Callable[[str], Tensor]]) -> None:
    """Let ``model`` compute with other values for some parameters: name -> what reads it by name."""
    if (weights := on_demand(model)) is not None:
        weights.replace(values)
        return
    for name, read in values.items():
        parameter = model.get_parameter(name)
        parameter.data = read(name).to(parameter.device, parameter.dtype)
