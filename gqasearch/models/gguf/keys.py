"""The metadata of one architecture in a GGUF file, with nothing in it trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gqasearch.errors import UserError
from gqasearch.models.gguf.file import GgufFile, shape_of

# Keys that change nothing of what a decoder computes, or that are read elsewhere.
HARMLESS = frozenset({"vocab_size", "pooling_type", "tensor_data_layout", "attention.causal"})
MOST_COUNT = 2**31 - 1


@dataclass
class Keys:
    """Keys ``ARCHITECTURE.name`` by their ``name``; remembers which were asked for."""

    file: GgufFile
    architecture: str
    asked: set[str] = field(default_factory=set)

    def _value(self, name: str) -> Any:
        self.asked.add(name)
        return self.file.value(f"{self.architecture}.{name}")

    def has(self, name: str) -> bool:
        """Whether the file has such a key."""
        return self._value(name) is not None

    def count(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number; of a list, one per layer, the number that all layers share.

        Raises ``UserError`` where there is none and no ``default``, for what is no number of at least ``least``, and
        for layers that differ.
        """
        value = self._value(name)
        if isinstance(value, list) and value and all(one == value[0] for one in value):
            value = value[0]
        if value is None and default is not None:
            return default
        if isinstance(value, list):
            raise self._wrong(name, f"{_short(value)}, another number for each layer; only one for all layers is read")
        if type(value) is not int or not least <= value <= MOST_COUNT:
            raise self._wrong(name, f"{value!r}; a whole number from {least} on is needed")
        return value

    def real(self, name: str, default: float | None = None) -> float:
        """A finite number, written with the digits that a float32 has: 1e-05, not 9.999999747378752e-06."""
        value = self._value(name)
        if value is None and default is not None:
            return default
        if type(value) not in (float, int) or not math.isfinite(value):
            raise self._wrong(name, f"{value!r}; a finite number is needed")
        return float(str(np.float32(value)))

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._value(name)
        if value is None:
            return default
        if type(value) is not bool:
            raise self._wrong(name, f"{value!r}; true or false is needed")
        return value

    def word(self, name: str) -> str | None:
        """Text; None where the file has no such key."""
        value = self._value(name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, f"{value!r}; text is needed")
        return value

    def factors(self, tensor: str) -> list[float] | None:
        """The values of a small tensor, such as what RoPE's frequencies are divided by; None where there is none."""
        if tensor not in self.file.tensors:
            return None
        values = self.file.values(tensor).reshape(-1)
        if not np.isfinite(values).all() or (values <= 0).any():
            raise UserError(f"{self.file.path}: tensor {tensor} holds values that are not finite and above 0")
        return [float(str(value)) for value in values]

    def has_tensor(self, name: str) -> bool:
        """Whether the file has a tensor of this name."""
        return name in self.file.tensors

    def rows(self, tensor: str) -> int:
        """How many rows a tensor has; raises ``UserError`` where there is none of this name."""
        if tensor not in self.file.tensors:
            raise UserError(f"{self.file.path} has no tensor {tensor}")
        return shape_of(self.file.tensors[tensor])[0]

    def require_all_read(self) -> None:
        """Raise ``UserError`` for a key that nobody asked for and that may change what the model computes."""
        prefix = f"{self.architecture}."
        for key in self.file.metadata:
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and name not in self.asked | HARMLESS and self.file.value(key):
                raise UserError(
                    f"{self.file.path}: {key} = {_short(self.file.value(key))} says something of the model that is not "
                    "understood here, so it is not read; give the checkpoint in safetensors that the file was made from"
                )
        if self.file.value(f"{prefix}attention.causal") is False:
            raise UserError(f"{self.file.path} is an encoder ({prefix}attention.causal is false); decoders are read")

    def _wrong(self, name: str, what: str) -> UserError:
        return UserError(f"{self.file.path}: {self.architecture}.{name} is {what}")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
