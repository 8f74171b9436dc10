"""Read a checkpoint's safetensors one tensor at a time, whatever its shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.models.shard_header import ShardHeader, StoredTensor, read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
BUFFER = 1 << 18  # bytes


@dataclass(frozen=True)
class CheckpointTensors:
    """The tensors of one checkpoint folder, read on demand. Pickled weights are refused."""

    directory: Path

    @cached_property
    def shard_of(self) -> dict[str, str]:
        """Tensor name -> shard file name, in the checkpoint's own order."""
        index = self.directory / INDEX
        if index.is_file():
            return _listed(index)
        if (self.directory / SINGLE).is_file():
            return dict.fromkeys(read_header(self.directory / SINGLE).tensors, SINGLE)
        pickled = sorted(path.name for path in self.directory.glob("*.bin"))
        reason = f"only pickled weights ({pickled[0]}), which are never read" if pickled else f"no {SINGLE} or {INDEX}"
        raise UserError(f"{self.directory} has {reason}; gqasearch reads safetensors only")

    @property
    def shards(self) -> list[str]:
        """Shard file names, each once, in order."""
        return list(dict.fromkeys(self.shard_of.values()))

    @cached_property
    def headers(self) -> dict[str, ShardHeader]:
        """Shard file name -> its header, checked; raises ``UserError`` where a shard is missing or damaged."""
        return {shard: read_header(self.directory / shard) for shard in self.shards}

    def stored(self, name: str) -> StoredTensor:
        """Dtype, shape and place of one tensor; raises ``UserError`` where there is none of this name."""
        found = self.headers[self.shard_of[name]].tensors.get(name) if name in self.shard_of else None
        if found is None:
            raise UserError(f"{self.directory} has no tensor {name}")
        return found

    def read(self, name: str) -> Tensor:
        """One tensor in the dtype it is stored in."""
        if name not in self.shard_of:
            raise UserError(f"{self.directory} has no tensor {name}")
        path = self.directory / self.shard_of[name]
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
                return tensor
        except FileNotFoundError:
            raise UserError(f"shard {path} is missing") from None
        except SafetensorError as error:
            raise UserError(f"{path} is damaged or truncated: {error}") from None

    def parts(self, name: str) -> Iterator[memoryview]:
        """One tensor's bytes, part after part; a part is gone when the next is asked for."""
        path, place = self.directory / self.shard_of[name], self.stored(name)
        buffer, left = memoryview(bytearray(min(BUFFER, place.nbytes))), place.nbytes
        with path.open("rb", buffering=0) as file:
            file.seek(place.start)
            while left:
                count = file.readinto(buffer[:left])
                if not count:
                    raise UserError(f"{path} ended within tensor {name}: it was changed while it was read")
                yield buffer[:count]
                left -= count


def _listed(index: Path) -> dict[str, str]:
    """Tensor name -> shard file name, as an index lists them."""
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shard_of = {str(name): str(shard) for name, shard in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} cannot be read: {error}") from None
    for shard in shard_of.values():
        if Path(shard).name != shard:
            raise UserError(f"{index}: shard {shard!r} is no plain file name")
    return shard_of


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite. The extremes tell, in a small part of the time that all values take."""
    if not tensor.numel():
        return True
    extremes = torch.stack(torch.aminmax(tensor))  # NaN where any value is
    return bool(torch.isfinite(extremes).all())


def require_finite(tensor: Tensor, directory: Path, name: str) -> None:
    """Raise ``UserError`` where a weight of the checkpoint in ``directory`` is NaN or infinite."""
    if not is_finite(tensor):
        raise UserError(f"{directory}: tensor {name} holds NaN or infinite values; the checkpoint is unusable")


def fingerprint(tensors: Mapping[str, Tensor] | CheckpointTensors) -> str:
    """``sha256:...`` over names, dtypes, shapes and bytes, in name order; shards do not matter."""
    digest = hashlib.sha256()
    names = sorted(tensors.shard_of if isinstance(tensors, CheckpointTensors) else tensors)
    for name in names:
        tensor = tensors.read(name) if isinstance(tensors, CheckpointTensors) else tensors[name].detach().cpu()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        parts = tensors.parts(name) if isinstance(tensors, CheckpointTensors) else [tensor_bytes(tensor)]
        for part in parts:
            digest.update(part)
    return f"sha256:{digest.hexdigest()}"


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The values of a tensor on the CPU as they are stored, (nbytes,); a view where it is contiguous."""
    data: memoryview = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
    return data
