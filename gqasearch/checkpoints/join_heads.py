"""Write a checkpoint with heads of n times the size that computes the same; see ``gqasearch.models.joined``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from gqasearch.checkpoints.config_json import rope_fields
from gqasearch.checkpoints.conversion import Conversion
from gqasearch.checkpoints.folder import copy_companions
from gqasearch.checkpoints.layout import Layout
from gqasearch.checkpoints.loaded_back import (
    ALLOWED,
    ALLOWED_ROUNDINGS,
    CheckBlock,
    compare,
    logits_of_folder,
)
from gqasearch.checkpoints.shards import Shards
from gqasearch.errors import UserError
from gqasearch.files import cache_root
from gqasearch.folders import new_folder
from gqasearch.models import LayerWeights, ModelSource
from gqasearch.models.families import family_of
from gqasearch.models.joined import joined_config, joined_layer


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


@dataclass(frozen=True)
class WithRoom(Layout):
    """Every head in its place, of ``n`` times the size."""

    n: int = 1

    def lay_out(self, merged: LayerWeights, layer: int) -> LayerWeights:
        return joined_layer(merged, self.n)


def write_joined(source: ModelSource, n: int, out_dir: Path) -> None:
    """Write it to ``out_dir``, which appears only when it is complete and was found to compute the same.

    One layer's attention is in memory at a time; all else goes from file to file as bytes.
    """
    family, config, shape = source.family, source.config, source.geometry
    wide = joined_config(family, config, n)
    wide |= rope_fields(family_of(wide), wide)
    places = (tuple(range(shape.num_attention_heads)),) * shape.num_layers
    room = WithRoom("stock-symmetric", places, (shape.num_kv_heads,) * shape.num_layers, "", n=n)
    conversion = Conversion(source.tensors, family, config, room, source.layer)
    with new_folder(out_dir) as folder:
        (folder / "config.json").write_text(json.dumps(wide, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        copy_companions(source.directory, folder)
        Shards(source.tensors, conversion.shapes).write(folder, conversion.convert)
        block = CheckBlock.drawn(config).fitting(family, config)
        wanted = logits_of_folder(source.directory, False, block)
        found = logits_of_folder(folder, False, block)
        # W_q is times sqrt(n), and rounded once more.
        rounding = ALLOWED_ROUNDINGS * torch.finfo(conversion.stored_dtype).eps
        allowed = float(wanted.abs().max()) * max(ALLOWED, rounding)
        compare(found, wanted, f"heads {n} times as wide", allowed, block)
