"""Read a checkpoint's safetensors one tensor at a time, whatever its shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gqasearch.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True)
class CheckpointTensors:
    """The tensors of one checkpoint folder, read on demand. Pickled weights are refused."""

    directory: Path

    @cached_property
    def shard_of(self) -> dict[str, str]:
        """Tensor name -> shard file name, in the checkpoint's own order."""
        index = self.directory / INDEX
        if index.is_file():
            try:
                listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            except (ValueError, KeyError) as error:
                raise UserError(f"{index} cannot be read: {error}") from None
            return {str(name): str(shard) for name, shard in listed.items()}
        if (self.directory / SINGLE).is_file():
            return dict.fromkeys(self.names_in(SINGLE), SINGLE)
        pickled = sorted(path.name for path in self.directory.glob("*.bin"))
        reason = f"only pickled weights ({pickled[0]}), which are never read" if pickled else f"no {SINGLE} or {INDEX}"
        raise UserError(f"{self.directory} has {reason}; gqasearch reads safetensors only")

    @property
    def shards(self) -> list[str]:
        """Shard file names, each once, in order."""
        return list(dict.fromkeys(self.shard_of.values()))

    def names_in(self, shard: str) -> list[str]:
        """Tensor names of one shard, in file order."""
        path = self.directory / shard
        try:
            with safe_open(path, framework="pt") as file:
                return list(file.keys())
        except FileNotFoundError:
            raise UserError(f"shard {path} is missing") from None
        except SafetensorError as error:
            raise UserError(f"{path} is damaged or truncated: {error}") from None

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


def fingerprint(tensors: Mapping[str, Tensor] | CheckpointTensors) -> str:
    """``sha256:...`` over names, dtypes, shapes and bytes, in name order; shards do not matter."""
    digest = hashlib.sha256()
    names = sorted(tensors.shard_of if isinstance(tensors, CheckpointTensors) else tensors)
    for name in names:
        tensor = tensors.read(name) if isinstance(tensors, CheckpointTensors) else tensors[name].detach().cpu()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
