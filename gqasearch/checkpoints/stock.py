"""The stock layout: a GQA checkpoint that transformers and the usual engines load with no code of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gqasearch.checkpoints.card import CardFacts, model_card
from gqasearch.checkpoints.config_json import stock_config
from gqasearch.checkpoints.folder import copy_companions, new_folder
from gqasearch.checkpoints.layout import Layout, lay_out, plan_layout
from gqasearch.errors import UserError
from gqasearch.grouping_document import GroupingDocument, check_fits, write_grouping
from gqasearch.models import CheckpointTensors, Config, Family, LayerWeights, family_of, read_config
from gqasearch.models.tensors import INDEX

CONVERTIBLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
NO_FACTS = CardFacts()


def write_checkpoint(
    source_dir: Path,
    out_dir: Path,
    document: GroupingDocument,
    merged_layer: Callable[[int], LayerWeights],
    *,
    facts: CardFacts = NO_FACTS,
) -> Layout:
    """Write the checkpoint in ``source_dir``, converted by ``document``'s grouping, to ``out_dir``.

    ``merged_layer(i)``: layer i after its merge, any float dtype: k, v (G, ...) in the order of the
    grouping's groups, q and o in the source's order. It is called once per layer. Shards keep their
    names, tensors their stored dtype, and all that a merge does not touch its bytes; one shard is in
    memory at a time. ``grouping.json`` and a model card are written beside the weights.

    ``out_dir`` appears only when complete. Raises ``UserError`` when it exists and is not empty, when the
    grouping has no stock layout or belongs to a model of another shape, and when the disk is full.
    """
    config = read_config(source_dir)
    family = family_of(config)
    geometry = family.geometry(config)
    check_fits(document, geometry, fingerprint=None)
    layout = plan_layout(document.grouping, geometry)
    source = CheckpointTensors(source_dir)
    layers = _ConvertedLayers(source, family, config, layout, merged_layer)
    grouped = stock_config(family, config, layout, layers.stored_dtype)
    with new_folder(out_dir) as folder:
        sizes = {shard: _write_shard(source, shard, layers, folder) for shard in source.shards}
        _write_index(source, sum(sizes.values()), layers, folder)
        (folder / "config.json").write_text(_json_text(grouped), encoding="utf-8")
        copy_companions(source_dir, folder)
        write_grouping(folder / "grouping.json", document)
        card = model_card(document, layout, grouped["architectures"][0], source_dir, facts)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return layout
