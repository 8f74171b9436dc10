"""The header of a safetensors file: read with nothing in it trusted, and written as safetensors writes it.

    8 bytes: length n, little-endian | n bytes: JSON, padded with spaces | the tensors' bytes, one after another

The JSON maps every name to its dtype, its shape and its two offsets into the part that follows.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from gqasearch.errors import UserError
from gqasearch.models.foreign import refuse_lfs_pointers

LENGTH_BYTES = 8
MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit
MOST_DIMENSION = 2**63 - 1
METADATA = "__metadata__"
BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in a file: dtype as safetensors names it ("BF16"), shape, first byte in the file, bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int

    @property
    def end(self) -> int:
        return self.start + self.nbytes


@dataclass(frozen=True)
class ShardHeader:
    """``tensors``: name -> where it is, in the order of the file. ``data_start``: where their bytes begin."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]
    data_start: int

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def read_header(path: Path) -> ShardHeader:
    """The header of the file at ``path``.

    Raises ``UserError`` that names the file and what is wrong: no such file, lengths beyond it, JSON of another form,
    unknown dtypes, sizes that do not fit shapes, bytes that belong to two tensors or to none.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            refuse_lfs_pointers([path])
            if size < LENGTH_BYTES or length > min(size - LENGTH_BYTES, MOST_HEADER_BYTES):
                raise _damaged(path, f"a header of {length} bytes in a file of {size}")
            text = file.read(length)
    except FileNotFoundError:
        raise UserError(f"shard {path} is missing") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    content = _parsed(path, text)
    metadata = content.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, f"{METADATA} is no mapping of words to words")
    data_start = LENGTH_BYTES + length
    tensors = {name: _stored(path, name, entry, data_start) for name, entry in content.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)))
    _check_whole(path, ordered, data_start, size)
    return ShardHeader(ordered, metadata, data_start)


def plan_header(
    tensors: Mapping[str, tuple[str, Sequence[int]]], metadata: Mapping[str, str]
) -> tuple[bytes, ShardHeader]:
    """The first bytes of a file of these tensors (name -> dtype, shape), in this order, and where each will lie.

    Wide dtypes come first, as in safetensors' own files: so every tensor stays aligned.
    """
    ordered = sorted(tensors.items(), key=lambda item: -BITS[item[1][0]])
    entries: dict[str, Any] = {METADATA: dict(metadata)}
    planned, end = {}, 0
    for name, (dtype, shape) in ordered:
        tensor = StoredTensor(dtype, tuple(shape), end, math.prod(shape) * BITS[dtype] // 8)
        planned[name], end = tensor, tensor.end
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [tensor.start, tensor.end]}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    start = LENGTH_BYTES + len(text)
    placed = {name: StoredTensor(t.dtype, t.shape, start + t.start, t.nbytes) for name, t in planned.items()}
    return len(text).to_bytes(LENGTH_BYTES, "little") + text, ShardHeader(placed, dict(metadata), start)


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    """The JSON object of a header; a name that stands twice would mean two things to two readers."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands twice")
        return found

    try:
        content = json.loads(text.decode(), object_pairs_hook=unique)
        json.dumps(content, ensure_ascii=False).encode()  # escapes may stand for what is no text
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is no valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise _damaged(path, "its header is no JSON object")
    return content


def _stored(path: Path, name: str, entry: Any, data_start: int) -> StoredTensor:
    """One entry of the JSON, checked in itself."""
    given = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = given.get("dtype"), given.get("shape"), given.get("data_offsets")
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise _damaged(path, f"tensor {name} has no dtype, shape and two offsets")
    if dtype not in BITS:
        raise UserError(f"{path}: tensor {name} has the unknown dtype {dtype}; known: {', '.join(BITS)}")
    bits, nbytes = math.prod(shape) * BITS[dtype], offsets[1] - offsets[0]
    if bits != 8 * nbytes:
        raise _damaged(path, f"tensor {name} of {dtype} {shape} is said to take {nbytes} bytes")
    return StoredTensor(dtype, tuple(shape), data_start + offsets[0], nbytes)


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and 0 <= size <= MOST_DIMENSION for size in value)


def _check_whole(path: Path, ordered: Mapping[str, StoredTensor], data_start: int, size: int) -> None:
    """Every byte of the data belongs to one tensor: none overlap, none are left, none lie beyond the end."""
    end = data_start
    for name, tensor in ordered.items():
        if tensor.start != end:
            raise _damaged(path, f"tensor {name} begins at byte {tensor.start}, the one before it ends at {end}")
        end = tensor.end
    if end != size:
        raise _damaged(path, f"its tensors end at byte {end}, the file at {size}")


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged or truncated: {what}")
