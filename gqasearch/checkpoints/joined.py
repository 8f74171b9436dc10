"""Write a checkpoint with heads of n times the size that computes the same; see ``gqasearch.models.joined``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from gqasearch.calibration import cache_root
from gqasearch.checkpoints.config_json import rope_fields
from gqasearch.checkpoints.conversion import cast, convertible
from gqasearch.checkpoints.folder import copy_companions, new_folder
from gqasearch.checkpoints.loaded_back import (
    ALLOWED,
    ALLOWED_ROUNDINGS,
    CheckBlock,
    compare,
    logits_of_folder,
)
from gqasearch.checkpoints.shards import Shards
from gqasearch.errors import UserError
from gqasearch.models import ModelSource
from gqasearch.models.joined import joined_config, joined_layer
from gqasearch.models.registry import family_of


def joined_source(source: ModelSource, n: int) -> ModelSource:
    """``source`` with heads of n times the size, from the cache; written there first where it is not yet.

    Raises ``UserError`` for a model that has no such form.
    """
    if n == 1:
        return source
    joined_config(source.family, source.config, n)  # for its errors, before the weights are read
    name = f"{source.identity.removeprefix('sha256:')[:32]}-{n}"
    folder = cache_root() / "joined" / name
    if not (folder / "config.json").is_file():
        try:
            write_joined(source, n, folder)
        except UserError:
            if not (folder / "config.json").is_file():  # else another process wrote the same meanwhile
                raise
    return ModelSource(folder, source.revision)


def write_joined(source: ModelSource, n: int, out_dir: Path) -> None:
    """Write it to ``out_dir``, which appears only when it is complete and was found to compute the same.

    One layer's attention is in memory at a time; all else goes from file to file as bytes.
    """
    family, config = source.family, source.config
    wide = joined_config(family, config, n)
    wide |= rope_fields(family_of(wide), wide)
    layer_of = {
        family.stored_name(name, source.tensors.shard_of): index
        for index in range(source.geometry.num_layers)
        for name in family.layer_tensors(index, config).values()
    }
    dtypes = {name: convertible(name, source.tensors.stored(name).dtype) for name in layer_of}

    def layer(index: int) -> dict[str, Tensor]:
        written = family.write_layer(joined_layer(source.layer(index), n), index)
        return {family.stored_name(name, source.tensors.shard_of): tensor for name, tensor in written.items()}

    def convert(name: str) -> dict[str, Tensor]:
        return {own: cast(tensor, dtypes[own], own) for own, tensor in layer(layer_of[name]).items()}

    shapes = {name: tuple(tensor.shape) for index in set(layer_of.values()) for name, tensor in layer(index).items()}
    with new_folder(out_dir) as folder:
        (folder / "config.json").write_text(json.dumps(wide, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        copy_companions(source.directory, folder)
        Shards(source.tensors, shapes).write(folder, convert)
        block = CheckBlock.drawn(config).fitting(family, config)
        wanted = logits_of_folder(source.directory, False, block)
        found = logits_of_folder(folder, False, block)
        # W_q is times sqrt(n), and rounded once more.
        rounding = max(torch.finfo(dtype).eps for dtype in dtypes.values())
        allowed = float(wanted.abs().max()) * max(ALLOWED, ALLOWED_ROUNDINGS * rounding)
        compare(found, wanted, f"heads {n} times as wide", allowed, block)
