"""Write a converted checkpoint: the source's shards with fewer K and V heads, and what belongs beside them."""

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
from gqasearch.checkpoints.deci import deci_config
from gqasearch.checkpoints.folder import copy_companions, new_folder
from gqasearch.checkpoints.layout import Layout, lay_out
from gqasearch.checkpoints.plan import plan_checkpoint
from gqasearch.checkpoints.ragged import ragged_config
from gqasearch.checkpoints.remote_code import copy_modeling_file
from gqasearch.config import LayoutChoice
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
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
    layout: LayoutChoice = "auto",
    facts: CardFacts = NO_FACTS,
) -> Layout:
    """Write the checkpoint in ``source_dir``, converted by ``document``'s grouping, to ``out_dir``.

    ``merged_layer(i)``: layer i after its merge, any float dtype: k, v (G, ...) in the order of the
    grouping's groups, q and o in the source's order. It is called once per layer. Shards keep their
    names, tensors their stored dtype, and all that a merge does not touch its bytes; one shard is in
    memory at a time. ``grouping.json``, a model card and the modelling file that the layout needs, if any,
    are written beside the weights. ``layout``: see ``plan_layout``.

    ``out_dir`` appears only when complete. Raises ``UserError`` when it exists and is not empty, when the
    grouping has no such layout or belongs to a model of another shape, and when the disk is full.
    """
    config = read_config(source_dir)
    family = family_of(config)
    check_fits(document, family.geometry(config), fingerprint=None)
    planned = plan_checkpoint(family, config, document.grouping, layout)
    source = CheckpointTensors(source_dir)
    layers = _ConvertedLayers(source, family, config, planned, merged_layer)
    grouped = _grouped_config(family, config, planned, document.grouping, layers.stored_dtype)
    with new_folder(out_dir) as folder:
        total_size = sum(_write_shard(source, shard, layers, folder) for shard in source.shards)
        _write_index(source, total_size, folder)
        (folder / "config.json").write_text(_json_text(grouped), encoding="utf-8")
        copy_modeling_file(planned.name, folder)
        copy_companions(source_dir, folder)
        write_grouping(folder / "grouping.json", document)
        card = model_card(document, planned, grouped["architectures"][0], source_dir, facts)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return planned


def _grouped_config(
    family: Family, config: Config, layout: Layout, grouping: Grouping, stored_dtype: torch.dtype
) -> Config:
    """``config.json`` in the words of the layout."""
    grouped = stock_config(family, config, layout, stored_dtype)
    if layout.name == "deci":
        return deci_config(grouped, layout)
    if layout.name == "ragged":
        return ragged_config(grouped, grouping, family.geometry(config))
    return grouped


class _ConvertedLayers:
    """The tensors that a merge changes, converted a layer at a time.

    A layer may lie in two shards: what belongs in the second waits here until that one is written.
    """

    def __init__(
        self,
        source: CheckpointTensors,
        family: Family,
        config: Config,
        layout: Layout,
        merged_layer: Callable[[int], LayerWeights],
    ) -> None:
        self._source, self._family, self._layout, self._merged_layer = source, family, layout, merged_layer
        self._layer_of = {
            name: layer for layer in range(len(layout.slots)) for name in family.layer_tensors(layer, config).values()
        }
        self._waiting: dict[str, Tensor] = {}
        missing = [name for name in self._layer_of if name not in source.shard_of]
        if missing:
            raise UserError(f"{source.directory} has no tensor {missing[0]}; gqasearch converts unquantised models")
        self.stored_dtype = source.read(family.tensor_name(0, "q.weight")).dtype

    def take(self, name: str) -> Tensor | None:
        """The converted tensor, once; None for a tensor that no merge changes."""
        if name not in self._layer_of:
            return None
        if name not in self._waiting:
            self._convert(self._layer_of[name])
        return self._waiting.pop(name)

    def _convert(self, layer: int) -> None:
        merged, heads = self._merged_layer(layer), self._layout.kv_heads_per_layer[layer]
        if merged.num_kv_heads != heads:
            raise ValueError(f"layer {layer} was merged to {merged.num_kv_heads} heads, not {heads}")
        placed = lay_out(merged, self._layout.slots[layer])
        for name, tensor in self._family.write_layer(placed, layer).items():
            self._waiting[name] = _cast(tensor, self._source.read(name).dtype, name)


def _cast(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """To the dtype that the source stores; float16 may not hold what float32 did."""
    if dtype not in CONVERTIBLE:
        raise UserError(f"{name} is stored as {dtype}; gqasearch converts unquantised models (float16 and wider)")
    cast = tensor.to("cpu", dtype)
    if not bool(torch.isfinite(cast).all()):
        raise UserError(f"{name} of the converted model holds values that are not finite in {dtype}")
    return cast


def _write_shard(source: CheckpointTensors, shard: str, layers: _ConvertedLayers, folder: Path) -> int:
    """Write one shard; bytes of its tensors."""
    if Path(shard).name != shard:
        raise UserError(f"{source.directory / INDEX}: shard {shard!r} is no plain file name")
    tensors: dict[str, Tensor] = {}
    for name in (name for name, its_shard in source.shard_of.items() if its_shard == shard):
        converted = layers.take(name)
        tensors[name] = source.read(name) if converted is None else converted
    with safe_open(source.directory / shard, framework="pt") as file:
        metadata = file.metadata() or {}
    # transformers 4 refuses files that do not say which framework's tensors they hold.
    save_file(tensors, folder / shard, metadata={**metadata, "format": "pt"})
    return sum(tensor.nbytes for tensor in tensors.values())


def _write_index(source: CheckpointTensors, total_size: int, folder: Path) -> None:
    """The index of a sharded checkpoint, with the new size; a single file has none."""
    if (source.directory / INDEX).is_file():
        index = {"metadata": {"total_size": total_size}, "weight_map": source.shard_of}
        (folder / INDEX).write_text(_json_text(index), encoding="utf-8")


def _json_text(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"
