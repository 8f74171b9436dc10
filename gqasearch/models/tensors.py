"""Read a checkpoint's safetensors one tensor at a time, whatever its shards."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.models.foreign import refuse_lfs_pointers, without_safetensors
from gqasearch.models.shard_header import ShardHeader, StoredTensor, read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
NEW_NAMES = {"gamma": "weight", "beta": "bias"}
BUFFER = 1 << 18  # bytes
# Plain floats, as safetensors and as torch call them.
CONVERTIBLE = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class CheckpointTensors:
    """The tensors of one checkpoint folder, read on demand. Pickled weights are refused."""

    directory: Path

    @cached_property
    def files(self) -> list[str]:
        """Names of the safetensors files that transformers reads, in its order: one whole file rather than shards."""
        if (self.directory / SINGLE).is_file():
            return [SINGLE]
        if (self.directory / INDEX).is_file():
            return _listed(self.directory / INDEX)
        reason = without_safetensors(self.directory) or f"it has no {SINGLE} or {INDEX}"
        raise UserError(f"{self.directory} holds no weights: {reason}")

    @property
    def is_sharded(self) -> bool:
        """Whether an index names the files."""
        return self.files != [SINGLE]

    @cached_property
    def headers(self) -> dict[str, ShardHeader]:
        """File name -> its header, checked; raises ``UserError`` where a file is missing or damaged."""
        return {file: read_header(self.directory / file) for file in self.files}

    @cached_property
    def shard_of(self) -> dict[str, str]:
        """Tensor name -> name of the file that it is read from, for every tensor in the files.

        What an index says of single tensors is not asked: transformers reads whole files, a later one over those
        before. Raises ``UserError`` for a tensor that lies in two of them with other values.
        """
        found: dict[str, str] = {}
        for file, header in self.headers.items():
            for name in header.tensors:
                if name in found and not self._same(name, found[name], file):
                    raise UserError(
                        f"{self.directory}: tensor {name} lies in {found[name]} and, with other values, in {file}; "
                        "remove the one that is stale"
                    )
                found[name] = file
        return found

    @property
    def shards(self) -> list[str]:
        """Names of the files that tensors are read from, each once, in order."""
        return list(dict.fromkeys(self.shard_of.values()))

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
        return self._bytes(name, self.shard_of[name])

    def differ(self, one: str, other: str) -> bool:
        """Whether two tensors of one shape hold other values."""
        if self.stored(one).dtype == self.stored(other).dtype:
            return self._digest(one, self.shard_of[one]) != self._digest(other, self.shard_of[other])
        return not torch.equal(self.read(one).double(), self.read(other).double())

    def _same(self, name: str, one: str, other: str) -> bool:
        """Whether a tensor that lies in two files is the same in both."""
        first, second = (self.headers[file].tensors[name] for file in (one, other))
        if (first.dtype, first.shape) != (second.dtype, second.shape):
            return False
        return self._digest(name, one) == self._digest(name, other)

    def _digest(self, name: str, file: str) -> bytes:
        digest = hashlib.sha256()
        for part in self._bytes(name, file):
            digest.update(part)
        return digest.digest()

    def _bytes(self, name: str, file: str) -> Iterator[memoryview]:
        path, place = self.directory / file, self.headers[file].tensors[name]
        buffer, left = memoryview(bytearray(min(BUFFER, place.nbytes))), place.nbytes
        with path.open("rb", buffering=0) as opened:
            opened.seek(place.start)
            while left:
                count = opened.readinto(buffer[:left])
                if not count:
                    raise UserError(f"{path} ended within tensor {name}: it was changed while it was read")
                yield buffer[:count]
                left -= count


def _listed(index: Path) -> list[str]:
    """The shard file names in an index, in the order of their names."""
    refuse_lfs_pointers([index])
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        names = sorted({str(shard) for shard in content["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} cannot be read: {error}") from None
    if not isinstance(content.get("metadata"), dict):
        raise UserError(f'{index} has no "metadata" object, without which transformers does not read it; {{}} will do')
    if not names:
        raise UserError(f"{index} names no files")
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(f"{index}: shard {name!r} is no plain file name that ends in .safetensors")
    return names


def current_name(name: str) -> str:
    """A stored name in the model's words: LayerNorm's weight and bias were once gamma and beta, as BERT was published.

    The sinks of a MiMo have another name in all engines but transformers.
    """
    name = re.sub(r"\.attention_sink_bias$", ".sinks", name)
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda found: f"LayerNorm.{NEW_NAMES[found[1]]}", name)


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
