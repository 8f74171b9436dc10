"""Write a GGUF file, llama.cpp's, that keeps bytes of another.

Metadata is not decoded and encoded again but copied, so that a tokenizer comes out as it went in.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gqasearch.files import new_file
from gqasearch.models.gguf.file import import_gguf

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

MAGIC, VERSION = b"GGUF", 3
# Types of metadata values (ggml-org/ggml, docs/gguf.md).
UINT32, INT32, STRING, ARRAY = 4, 5, 8, 9


@dataclass(frozen=True)
class NewTensor:
    """A tensor to write. ``shape``: rows first, as in torch; ``data()``: its bytes in ``type``, made when written."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    data: Callable[[], NDArray[Any]]


def uint32(value: int) -> bytes:
    """A number as a metadata value."""
    return struct.pack("<II", UINT32, value)


def string(text: str) -> bytes:
    """Text as a metadata value."""
    return struct.pack("<I", STRING) + _counted(text)


def int32_array(values: Sequence[int]) -> bytes:
    """Numbers as one metadata value; of this type llama.cpp's converter writes what differs by layer."""
    return struct.pack(f"<IIQ{len(values)}i", ARRAY, INT32, len(values), *values)


def write_gguf(
    path: Path, metadata: Mapping[str, bytes], tensors: Sequence[NewTensor], alignment: int, *, overwrite: bool = False
) -> None:
    """Write a GGUF file, one tensor in memory at a time; it appears under its name when complete.

    Raises ``UserError`` when the file exists and ``overwrite`` is not set, or cannot be written.
    """
    with new_file(path, overwrite=overwrite) as file:
        header = MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata))
        header += b"".join(_counted(key) + value for key, value in metadata.items())
        offset = 0
        for tensor in tensors:
            header += _tensor_info(tensor, offset)
            offset += _padded(stored_bytes(tensor), alignment)
        file.write(header.ljust(_padded(len(header), alignment), b"\0"))
        for tensor in tensors:
            data = np.ascontiguousarray(tensor.data())
            if data.nbytes != stored_bytes(tensor):
                raise ValueError(f"{tensor.name}: {data.nbytes} bytes, not {stored_bytes(tensor)}")
            file.write(data.view(np.uint8).data)
            file.write(bytes(_padded(data.nbytes, alignment) - data.nbytes))


def stored_bytes(tensor: NewTensor) -> int:
    """What the tensor takes in a file, without padding."""
    values, size = import_gguf().GGML_QUANT_SIZES[tensor.type]
    return int(prod(tensor.shape) // values * size)


def _counted(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _tensor_info(tensor: NewTensor, offset: int) -> bytes:
    shape = tuple(reversed(tensor.shape))
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return _counted(tensor.name) + sizes + struct.pack("<IQ", int(tensor.type), offset)


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
