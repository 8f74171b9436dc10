"""Random checkpoints of any size, made a tensor at a time, and groupings of their heads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gqasearch.files import new_file, write_file
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.grouping_document import GroupingDocument, LayerRecord, MergeRecord, ModelRecord
from gqasearch.models import ModelSource
from gqasearch.models.shard_header import plan_header
from gqasearch.models.tensors import INDEX, tensor_bytes

MOST_VALUES = 1 << 24  # drawn at a time, in float32


def llama_config(layers: int, hidden: int, heads: int, vocab: int) -> LlamaConfig:
    """A Llama with multi-head attention."""
    return LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=hidden * 43 // 16,  # Llama-2's proportion
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=vocab,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )


def make_checkpoint(config: LlamaConfig, folder: Path, shards: int) -> None:
    """Random bfloat16 weights in ``shards`` files of about the same size; layers lie across their borders."""
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    sizes = np.cumsum([np.prod(shape) for shape in shapes.values()])
    places = np.minimum(sizes * shards // (sizes[-1] + 1), shards - 1)
    weight_map = {
        name: f"model-{place + 1:05}-of-{shards:05}.safetensors" for name, place in zip(shapes, places, strict=True)
    }
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    random = torch.Generator().manual_seed(0)
    for shard in dict.fromkeys(weight_map.values()):
        mine = {name: shapes[name] for name in sorted(weight_map) if weight_map[name] == shard}
        write_shard(folder / shard, mine, random)
    write_index(folder, weight_map, 2 * int(sizes[-1]))


def write_shard(path: Path, shapes: Mapping[str, Sequence[int]], random: torch.Generator) -> None:
    """Tensors of these shapes in bfloat16, in this order: those of one dimension (norms) are 1, all others normal with
    deviation 0.02, as models begin. Holds ``MOST_VALUES`` at a time.
    """
    first, header = plan_header({name: ("BF16", shape) for name, shape in shapes.items()}, {"format": "pt"})
    with new_file(path) as file:
        file.write(first)
        for place in header.tensors.values():
            count = math.prod(place.shape)
            for start in range(0, count, MOST_VALUES):
                values = torch.ones(min(MOST_VALUES, count - start))
                if len(place.shape) > 1:
                    values.normal_(0.0, 0.02, generator=random)
                file.write(tensor_bytes(values.bfloat16()))


def write_index(folder: Path, weight_map: Mapping[str, str], nbytes: int) -> None:
    """The file that says which shard holds which tensor."""
    index = {"metadata": {"total_size": nbytes}, "weight_map": dict(weight_map)}
    write_file(folder / INDEX, json.dumps(index, indent=2) + "\n")


def random_grouping(source: ModelSource, merge: str, groups: int) -> GroupingDocument:
    """Groups of one size, heads of a group apart."""
    shape, rng = source.geometry, np.random.default_rng(0)
    labels = np.arange(shape.num_kv_heads) % groups
    layers = [LayerGrouping.from_labels(rng.permutation(labels).tolist()) for _ in range(shape.num_layers)]
    model = ModelRecord(
        id=source.directory.name,
        architecture=source.config["architectures"][0],
        num_layers=shape.num_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        fingerprint=source.fingerprint,
    )
    return GroupingDocument(model, tuple(map(LayerRecord, Grouping(tuple(layers)))), MergeRecord(merge))
