"""Weights that transformers puts together from many stored tensors, as the experts of a layer: read when needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers.core_model_loading as loading
from torch import Tensor

from gqasearch.models.tensors import CheckpointTensors


@dataclass(frozen=True)
class Parts:
    """Stored tensors of one parameter: ``names[part][expert]``, each (rows, D), stacked to (experts, all rows, D)."""

    names: tuple[tuple[str, ...], ...]

    def assembled(self, read: Callable[[str], Tensor]) -> Tensor:
        """The parameter; besides itself no more than one expert is in memory."""
        whole: Tensor | None = None
        for expert, names in enumerate(zip(*self.names, strict=True)):
            rows = torch.cat([read(name) for name in names])
            if whole is None:
                whole = rows.new_empty(len(self.names[0]), *rows.shape)
            whole[expert] = rows
        if whole is None:
            raise ValueError("a parameter without parts")
        return whole


@dataclass(frozen=True)
class AssembledTensors(CheckpointTensors):
    """The tensors of a checkpoint folder and, under names of the model's own, those that come of several."""

    made_of: Mapping[str, Parts]

    def read(self, name: str) -> Tensor:
        """A stored tensor, or one that is assembled."""
        parts = self.made_of.get(name)
        return super().read(name) if parts is None else parts.assembled(super().read)


class PartsNoted:
    """What transformers' own loading would assemble: ``parts`` fills as it goes through the files.

    ``noting`` and ``placing`` wrap two of its functions: one is told of every stored tensor, one would write what was
    assembled to a file of its own.
    """

    def __init__(self) -> None:
        self.parts: dict[str, Parts] = {}
        self._names: dict[int, dict[str, list[str]]] = {}  # by the object that assembles

    def noting(self, original: Callable[..., None]) -> Callable[..., None]:
        def add_tensor(mapping: Any, target: str, stored: str, pattern: str, tensor: Any) -> None:
            self._names.setdefault(id(mapping), {}).setdefault(pattern, []).append(stored)
            original(mapping, target, stored, pattern, tensor)

        return add_tensor

    def placing(self, original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        def offload(target: str, value: Tensor, info: Any, folder: Any, index: dict[str, Any], made_by: Any) -> Any:
            if not _stacks(made_by):
                return original(target, value, info, folder, index, made_by)
            noted = self._names[id(made_by)]
            self.parts[target] = Parts(tuple(tuple(noted[pattern]) for pattern in made_by.source_patterns))
            info.missing_keys.discard(target)
            place = next(iter(index.values()))  # any of its files: nothing is read there by this name
            return {**index, target: {**place, "weight_name": target}}

        return offload


def _stacks(made_by: Any) -> bool:
    """Whether a conversion is that of ``Parts``: experts stacked, their parts one after the other."""
    steps = [(type(step), getattr(step, "dim", None)) for step in getattr(made_by, "operations", ())]
    stacked = (loading.MergeModulelist, 0)
    return steps in ([stacked], [stacked, (loading.Concatenate, 1)])
