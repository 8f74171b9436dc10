"""Checkpoint folders taken apart and put together otherwise, and what transformers makes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from gqasearch.models import ModelSource

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def put(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> None:
    save_file(dict(tensors), folder / name, metadata={"format": "pt"})


def split(folder: Path, tensors: Mapping[str, Tensor], listed: Mapping[str, str] | None = None) -> list[str]:
    """The tensors in two shards, turn by turn, and their index; ``listed``: what it says otherwise. Names of both."""
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    parts = [dict(list(tensors.items())[part::2]) for part in range(2)]
    for name, part in zip(names, parts, strict=True):
        put(folder, name, part)
    weight_map = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    write_index(folder, {**weight_map, **(listed or {})})
    return names


def write_index(folder: Path, weight_map: Mapping[str, str]) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict(weight_map)}), encoding="utf-8")


def assert_read_as_transformers_does(folder: Path) -> None:
    """Our tensors are those of the model that transformers loads, value for value, and the fingerprint is of them."""
    tensors = ModelSource(folder, "").tensors
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    state = {name: tensor for name, tensor in model.state_dict().items() if name in tensors.shard_of}
    assert state.keys() == tensors.shard_of.keys()
    for name, tensor in state.items():
        assert torch.equal(tensors.read(name).float(), tensor), name
