"""Write the shards of a converted checkpoint, with no more than one layer's changed tensors in memory.

Every shard's header is known from the plan, so every tensor has its place before the first is written: bytes that
stay go from file to file, and a converted layer goes to its places at once, in whichever shards they are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.models import CheckpointTensors
from gqasearch.models.shard_header import ShardHeader, StoredTensor, plan_header
from gqasearch.models.tensors import INDEX, tensor_bytes

if sys.platform == "linux":
    import os

CHUNK, BUFFER = 1 << 24, 1 << 20  # bytes copied by one call of the kernel's, and by hand


class Shards:
    """The shards of ``source``, with other shapes for some tensors.

    ``shapes``: name -> shape of every tensor that changes. Names of shards and tensors, dtypes and the order in a file
    stay.
    """

    def __init__(self, source: CheckpointTensors, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._source, self._changed = source, frozenset(shapes)
        names: dict[str, list[str]] = {shard: [] for shard in source.shards}
        for name in sorted(source.shard_of, key=lambda name: source.stored(name).start):
            names[source.shard_of[name]].append(name)
        self._first_bytes: dict[str, bytes] = {}
        self._headers: dict[str, ShardHeader] = {}
        for shard, its_names in names.items():
            stored = {name: source.stored(name) for name in its_names}
            tensors = {name: (place.dtype, shapes.get(name, place.shape)) for name, place in stored.items()}
            # transformers 4 refuses files that do not say which framework's tensors they hold.
            metadata = {**source.headers[shard].metadata, "format": "pt"}
            self._first_bytes[shard], self._headers[shard] = plan_header(tensors, metadata)

    @property
    def total_size(self) -> int:
        """Bytes of all tensors."""
        return sum(header.nbytes for header in self._headers.values())

    def write(self, folder: Path, convert: Callable[[str], Mapping[str, Tensor]]) -> None:
        """Write all shards into ``folder``, and their index where the source has one.

        ``convert(name)``: this changed tensor and those that are converted together with it, in the dtypes that the
        source stores; it is not called for what it gave before. Raises ``UserError`` for a source that ends early,
        ``ValueError`` for a tensor that ``convert`` never gave, or gave of another shape than planned.
        """
        for shard, first in self._first_bytes.items():
            (folder / shard).write_bytes(first)
        waiting = set(self._changed)
        for header in self._headers.values():
            for name in header.tensors:
                if name in waiting:
                    waiting -= self._write_all(convert(name), folder)
                elif name not in self._changed:
                    self._copy(name, folder)
        if waiting:
            raise ValueError(f"{min(waiting)} was converted to nothing")
        if self._source.is_sharded:
            index = {"metadata": {"total_size": self.total_size}, "weight_map": self._source.shard_of}
            (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def _write_all(self, tensors: Mapping[str, Tensor], folder: Path) -> set[str]:
        """Put converted tensors into their places; their names."""
        for name, tensor in tensors.items():
            place = self._place(name)
            if tuple(tensor.shape) != place.shape or tensor.nbytes != place.nbytes:
                raise ValueError(f"{name} was converted to {tuple(tensor.shape)}, not {place.shape}")
            with (folder / self._source.shard_of[name]).open("r+b") as file:
                file.seek(place.start)
                file.write(tensor_bytes(tensor))
        return set(tensors)

    def _copy(self, name: str, folder: Path) -> None:
        """Copy a tensor's bytes to their place."""
        shard, stored, place = self._source.shard_of[name], self._source.stored(name), self._place(name)
        path, done = self._source.directory / shard, 0
        with path.open("rb", buffering=0) as source, (folder / shard).open("r+b", buffering=0) as target:
            while done < stored.nbytes:
                copied = _copy_some(source, stored.start + done, target, place.start + done, stored.nbytes - done)
                if not copied:
                    raise UserError(f"{path} ended within tensor {name}: it was changed while it was read")
                done += copied

    def _place(self, name: str) -> StoredTensor:
        return self._headers[self._source.shard_of[name]].tensors[name]


def _copy_some(source: BinaryIO, start: int, target: BinaryIO, at: int, count: int) -> int:
    """Copy at most ``count`` bytes; how many were."""
    if sys.platform == "linux":
        with suppress(OSError):  # not on every file system; where the disk is full, what follows says so
            copied = os.copy_file_range(source.fileno(), target.fileno(), min(count, CHUNK), start, at)
            if copied:
                return copied
    source.seek(start)
    data = source.read(min(count, BUFFER))
    target.seek(at)
    return target.write(data)
