"""Refined layers on disk, a file each: no more than one is in memory, and a process that was killed loses one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from gqasearch.files import save_tensors
from gqasearch.models import LayerWeights

PLAIN = "plain"  # in a file's metadata: the fields that are no tensors


class RefinedLayers(Mapping[int, LayerWeights]):
    """Layer -> its weights after a refinement, k, v (G, ...), in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, index: int, layer: LayerWeights) -> None:
        """Keep a layer; its file appears when it is complete."""
        values = {field.name: getattr(layer, field.name) for field in fields(layer)}
        tensors = {name: value.cpu() for name, value in values.items() if isinstance(value, Tensor)}
        plain = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
        save_tensors(self._path(index), tensors, {PLAIN: json.dumps(plain)})

    def __getitem__(self, index: int) -> LayerWeights:
        if not self._path(index).is_file():
            raise KeyError(index)
        with safe_open(self._path(index), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return LayerWeights(**tensors, **json.loads(file.metadata()[PLAIN]))

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(int(path.stem) for path in self._folder.glob("*.safetensors")))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _path(self, index: int) -> Path:
        return self._folder / f"{index}.safetensors"


def copied(layer: LayerWeights) -> LayerWeights:
    """The same in memory of its own, not in that of a file."""
    tensors: dict[str, Any] = {
        field.name: value.clone() for field in fields(layer) if isinstance(value := getattr(layer, field.name), Tensor)
    }
    return replace(layer, **tensors)
