"""Helpers of the checkpoint tests: a merge that is wrong in a known way, and the reference it is compared with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from gqasearch.checkpoints import CardFacts, Layout, write_checkpoint
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.grouping_document import GroupingDocument, LayerRecord, ModelRecord
from gqasearch.layout_choice import LayoutChoice
from gqasearch.models import LayerWeights, Parent, layers_replaced, tie_heads
from gqasearch.separate_grouping import AnyGrouping, AnyLayer, SeparateGrouping

SYMMETRIC = Grouping.from_labels([[0, 1, 2, 1, 2, 0], [0, 0, 1, 2, 2, 1]])
# 9 slots for 6 heads of 8: no divisor of the hidden size 48, which transformers 5 refuses in a Llama.
PADDED = Grouping.from_labels([[0, 1, 0, 0, 2, 1], [0, 1, 2, 2, 2, 0]])


def changed_layer(weights: LayerWeights, grouping: AnyGrouping, index: int) -> LayerWeights:
    """K and V of a group: the mean. q, o and q bias are changed too, as closed-form merges do.

    Joined heads get something in all of their dimensions, as they do when they are merged.
    """
    layer: AnyLayer = grouping.layers[index]
    noise = torch.Generator().manual_seed(index)

    def mean(heads: Tensor | None, partition: LayerGrouping) -> Tensor | None:
        return None if heads is None else torch.stack([heads[list(group)].mean(0) for group in partition.groups])

    def shake(heads: Tensor) -> Tensor:
        return heads + 0.05 * torch.randn(heads.shape, generator=noise).to(heads)

    k, v = mean(weights.k, layer.keys), mean(weights.v, layer.values)
    assert k is not None
    assert v is not None
    if weights.joined > 1:
        k, v = shake(k), shake(v)
    return replace(
        weights,
        k=k,
        v=v,
        q=shake(weights.q),
        o=shake(weights.o),
        k_bias=mean(weights.k_bias, layer.keys),
        v_bias=mean(weights.v_bias, layer.values),
        q_bias=None if weights.q_bias is None else shake(weights.q_bias),
        k_norms=mean(weights.k_norms, layer.keys),
        q_norms=None if weights.q_norms is None else shake(weights.q_norms),
    )


def document_for(parent: Parent, grouping: AnyGrouping) -> GroupingDocument:
    shape = parent.geometry
    model = ModelRecord(
        id=parent.id,
        architecture=parent.config["architectures"][0],
        num_layers=shape.num_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        fingerprint=parent.fingerprint,
    )
    separate = isinstance(grouping, SeparateGrouping)
    partitions: Grouping = grouping.sides if isinstance(grouping, SeparateGrouping) else grouping
    return GroupingDocument(model, tuple(map(LayerRecord, partitions)), separate_kv=separate)


def convert(
    parent: Parent,
    source: Path,
    target: Path,
    grouping: AnyGrouping,
    facts: CardFacts | None = None,
    layout: LayoutChoice = "auto",
) -> Layout:
    """Write ``source`` converted; the merge sees the parent's weights in the parent's dtype."""
    return write_checkpoint(
        source,
        target,
        document_for(parent, grouping),
        lambda index: changed_layer(parent.layer(index), grouping, index),
        facts=facts or CardFacts(),
        layout=layout,
    ).layout


@contextmanager
def reference(parent: Parent, grouping: AnyGrouping, stored: torch.dtype = torch.float32) -> Iterator[PreTrainedModel]:
    """The parent with tied heads, its changed weights rounded to ``stored``."""
    tied = {}
    for index, layer in enumerate(grouping):
        merged = changed_layer(parent.layer(index), grouping, index).to(stored).to(parent.model.dtype)
        tied[index] = tie_heads(merged, layer, parent.geometry.queries_per_kv)
    with layers_replaced(parent, tied):
        yield parent.model


def auto_class(folder: Path) -> Any:
    """What a user loads this checkpoint by."""
    return AutoModelForImageTextToText if "vision_config" in config_of(folder) else AutoModelForCausalLM


def load(folder: Path) -> PreTrainedModel:
    """As any user would: no dtype, no remote code. Refuses missing, unexpected or reshaped tensors."""
    model: PreTrainedModel
    model, info = auto_class(folder).from_pretrained(folder, output_loading_info=True, trust_remote_code=False)
    assert not any(info.values()), info
    return model.eval()


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    return tensors


def config_of(folder: Path) -> dict[str, object]:
    config: dict[str, object] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def some_ids(length: int = 24) -> Tensor:
    return torch.randint(2, 250, (2, length), generator=torch.Generator().manual_seed(7))
