"""The weights of a GGUF file as one safetensors file: each checked, dequantised and put as transformers has it.

A tensor keeps the type that it is stored in where that is one of numbers (F32, F16, BF16). What is quantised becomes
float16: it has 11 bits where a quantised number has at most 9, an eighth of bfloat16's rounding, and 16 bits are what
engines keep a KV cache in.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from gqasearch.errors import UserError
from gqasearch.models.family import Config
from gqasearch.models.gguf.architecture import Architecture
from gqasearch.models.gguf.file import GgufFile, import_gguf, shape_of
from gqasearch.models.gguf.rope import FACTORS
from gqasearch.models.shard_header import plan_header
from gqasearch.models.tensors import is_finite, tensor_bytes

KEPT = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
STORED = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # as safetensors calls them
CHUNK = 2**24  # values that are dequantised at a time


@dataclass(frozen=True)
class GgufWeights:
    """Tensors of ``file`` for the model of ``config``."""

    file: GgufFile
    architecture: Architecture
    config: Config

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The checkpoint's names and shapes: all that the model has, a tied output head left out.

        Raises ``UserError`` where transformers makes no model of the configuration.
        """
        try:
            own = {name: value for name, value in self.config.items() if name != "model_type"}
            config = AutoConfig.for_model(self.config["model_type"], **own)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
        except Exception as error:
            words = " ".join(str(error).split())
            raise UserError(f"{self.file.path}: transformers makes no model of its metadata: {words}") from error
        tied = set(model.all_tied_weights_keys) if self.config["tie_word_embeddings"] else set()
        return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}

    @cached_property
    def names(self) -> dict[str, str]:
        """The checkpoint's name -> the file's.

        Raises ``UserError`` for a tensor that is missing, one that belongs to nothing, and one of another shape: no
        weight is made up, and none is left out.
        """
        gguf, path = import_gguf(), self.file.path
        known = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == self.architecture.name)
        table = gguf.get_tensor_name_map(known, self._num_layers)
        found = {}
        for name, shape in self.shapes.items():
            stored = table.get_name(name, try_suffixes=(".weight", ".bias"))
            if stored is None:
                raise UserError(f"{path}: the package gguf has no name for {name} of {self.architecture.name}")
            if stored not in self.file.tensors:
                raise UserError(f"{path} has no tensor {stored}, which a {self.config['architectures'][0]} needs")
            given, wanted = shape_of(self.file.tensors[stored]), self.architecture.stored_shape(name, shape)
            if given != wanted:
                raise UserError(f"{path}: tensor {stored} has shape {given}; by the file's metadata it has {wanted}")
            found[name] = stored
        if unused := sorted(self.file.tensors.keys() - set(found.values()) - set(FACTORS)):
            raise UserError(
                f"{path}: tensor {unused[0]}{f' and {len(unused) - 1} more' if len(unused) > 1 else ''} belongs to "
                f"nothing that a {self.config['architectures'][0]} computes"
            )
        return found

    @property
    def _num_layers(self) -> int:
        return int(self.config.get("num_hidden_layers") or self.config["n_layer"])

    @cached_property
    def dtypes(self) -> dict[str, torch.dtype]:
        """What each of the checkpoint's tensors is stored in."""
        found = {}
        for name, stored in self.names.items():
            kind = self.file.tensors[stored].tensor_type.name
            found[name] = torch.float32 if self.architecture.computes(name) else KEPT.get(kind, torch.float16)
        return found

    @property
    def dtype(self) -> torch.dtype:
        """What most of the weights are stored in."""
        sizes: Counter[torch.dtype] = Counter()
        for name, dtype in self.dtypes.items():
            sizes[dtype] += math.prod(self.shapes[name])
        return sizes.most_common(1)[0][0]

    def write(self, path: Path) -> None:
        """Write them to ``path``, some millions of values in memory at a time.

        Raises ``UserError`` for values that are not finite.
        """
        planned = {name: (STORED[self.dtypes[name]], self.shapes[name]) for name in self.shapes}
        first_bytes, header = plan_header(planned, {"format": "pt"})
        with path.open("wb") as file:
            file.write(first_bytes)
            for name in header.tensors:
                for part in self._parts(name):
                    values = part.to(self.dtypes[name])
                    if not is_finite(values):
                        raise UserError(
                            f"{self.file.path}: tensor {self.names[name]} holds values that are NaN, infinite or, once "
                            f"dequantised, none of {str(values.dtype).removeprefix('torch.')}'s; the file is unusable"
                        )
                    file.write(tensor_bytes(values))

    def _parts(self, name: str) -> Iterator[Tensor]:
        """One tensor as the checkpoint has it, float32, rows after rows; whole where its rows are not the file's."""
        stored, restore = self.names[name], self.architecture.restore(name, self.config)
        rows = shape_of(self.file.tensors[stored])[0]
        step = rows if restore else max(1, CHUNK * rows // max(1, math.prod(self.shapes[name])))
        for start in range(0, rows, step):
            part = torch.from_numpy(np.array(self.file.values(stored, slice(start, start + step))))
            yield restore(part).contiguous() if restore else part
