"""GGUF files, llama.cpp's, read with the package gguf (ggml-org/ggml, docs/gguf.md)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gqasearch.errors import UserError

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

MAGIC = b"GGUF"


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF files do."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def import_gguf() -> ModuleType:
    """The package gguf; raises ``UserError`` that says how to install it."""
    try:
        import gguf
    except ImportError:
        raise UserError("GGUF files need the package gguf: pip install 'gqasearch[gguf]' (or gguf alone)") from None
    return gguf


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file, mapped into memory. Raises ``UserError`` when it is none, is damaged, or one of several parts."""

    path: Path

    @cached_property
    def reader(self) -> GGUFReader:
        """The package's own view of the file."""
        gguf = import_gguf()
        try:
            reader: GGUFReader = gguf.GGUFReader(self.path)
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror or error}") from None
        except (ValueError, KeyError, IndexError, OverflowError, MemoryError) as error:
            raise UserError(f"{self.path} is no GGUF file, or damaged: {error}") from None
        if reader.endianess != gguf.GGUFEndian.LITTLE:
            raise UserError(f"{self.path} is a big-endian GGUF file; only little-endian ones are read")
        parts = reader.get_field("split.count")
        if parts is not None and parts.contents() > 1:
            raise UserError(f"{self.path} is one of {parts.contents()} parts; join them with llama-gguf-split --merge")
        return reader

    def value(self, key: str) -> Any:
        """A metadata value; None where the file has none of this name."""
        field = self.reader.get_field(key)
        return None if field is None else field.contents()

    @cached_property
    def metadata(self) -> dict[str, bytes]:
        """Key -> type and value as they stand in the file, in its order."""
        found = {}
        for key, field in self.reader.fields.items():
            if not key.startswith("GGUF."):  # the reader's own names for the header
                start = field.offset + sum(part.nbytes for part in field.parts[:2])  # past the key
                end = field.offset + sum(part.nbytes for part in field.parts)
                found[key] = self.reader.data[start:end].tobytes()
        return found

    @cached_property
    def tensors(self) -> dict[str, ReaderTensor]:
        """Tensors by name, in the file's order."""
        return {tensor.name: tensor for tensor in self.reader.tensors}

    def values(self, name: str, rows: slice = slice(None)) -> NDArray[np.float32]:
        """Some of the outermost rows of a tensor, (rows, ...), dequantised.

        Raises ``UserError`` for a type that the package gguf cannot read.
        """
        tensor = self.tensors[name]
        try:
            with np.errstate(all="ignore"):  # what is not finite is found by who looks
                values: NDArray[Any] = import_gguf().quants.dequantize(tensor.data[rows], tensor.tensor_type)
        except NotImplementedError:
            raise UserError(
                f"{self.path}: tensor {name} is of type {tensor.tensor_type.name}, which the package gguf cannot read; "
                "give a file of another type, as Q8_0"
            ) from None
        return values.astype(np.float32, copy=False)


def shape_of(tensor: ReaderTensor) -> tuple[int, ...]:
    """Rows first, as in torch; GGUF counts the other way round."""
    return tuple(int(size) for size in reversed(tensor.shape))
