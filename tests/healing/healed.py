"""Tiny converted checkpoints and settings to heal them by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gqasearch.grouping import Grouping
from gqasearch.healing import HealConfig
from gqasearch.layout_choice import LayoutChoice
from gqasearch.models import Parent, load_parent
from gqasearch.run.heal import HealFolder, heal
from tests.checkpoints.convert import PADDED, SYMMETRIC, convert, stored_tensors
from tests.checkpoints.uneven import UNEVEN, saved
from tests.samples import text_file
from tests.tiny_encoders import ENCODERS, save_encoder, tiny_encoder

LAYOUTS: dict[str, tuple[Grouping, LayoutChoice]] = {
    "stock-symmetric": (SYMMETRIC, "stock"),
    "stock-padded": (PADDED, "stock"),
    "deci": (UNEVEN, "deci"),
    "ragged": (UNEVEN, "ragged"),
    "mimo": (UNEVEN, "mimo"),
    "anymodel": (UNEVEN, "anymodel"),
}
SMALL: dict[str, Any] = {
    "steps": 6,
    "evaluate_every": 2,
    "batch_blocks": 2,
    "block_length": 32,
    "validation_tokens": 200,
    "evaluation_tokens": 200,
    "learning_rate": 3e-3,
}


def converted(tmp_path: Path, layout: str, family: str = "llama") -> tuple[Parent, Path]:
    """A parent, and its folder ``start`` converted."""
    if family in ENCODERS:
        source = save_encoder(tiny_encoder(family), tmp_path / "source")
        parent = load_parent(str(source))
    else:
        parent, source = saved(tmp_path, family)
    grouping, choice = LAYOUTS[layout]
    convert(parent, source, tmp_path / "start", grouping, layout=choice)
    text_file(tmp_path)
    return parent, tmp_path / "start"


def settings(tmp_path: Path, **changes: Any) -> HealConfig:
    """Settings for what ``converted`` left."""
    paths = {"model": tmp_path / "start", "parent": tmp_path / "source", "text": tmp_path / "text.txt"}
    return HealConfig(**{**{name: str(path) for name, path in paths.items()}, **SMALL, **changes})


def healed(tmp_path: Path, name: str = "healed", **changes: Any) -> HealFolder:
    return heal(settings(tmp_path, **changes), tmp_path / name)


def history_of(folder: HealFolder) -> list[dict[str, Any]]:
    """Lines of the history, without the times."""
    lines = [json.loads(line) for line in folder.history.read_text().splitlines()]
    for line in lines:
        line.pop("seconds")
    return lines


def changed(before: Path, after: Path) -> set[str]:
    """Names of the tensors that differ; all must be there with their shapes and dtypes."""
    old, new = stored_tensors(before), stored_tensors(after)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in old.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in new.items()
    }
    return {name for name in old if not torch.equal(old[name], new[name])}


def slots_of(folder: Path, layer: int, head_dim: int = 8) -> tuple[Tensor, Tensor]:
    """q (slots, d, D) and o (slots, D, d) of one layer as they are stored."""
    tensors = stored_tensors(folder)
    q, o = (tensors[f"model.layers.{layer}.self_attn.{name}_proj.weight"] for name in "qo")
    return q.unflatten(0, (-1, head_dim)), o.unflatten(1, (-1, head_dim)).transpose(0, 1)
