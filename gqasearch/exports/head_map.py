"""Head maps: which KV head of the converted model every query head of the source reads."""

from __future__ import annotations

import json
from pathlib import Path

from gqasearch.errors import UserError
from gqasearch.exports.reading import integer_rows
from gqasearch.files import read_json
from gqasearch.grouping import LayerGrouping
from gqasearch.grouping_document import GroupingDocument, ModelRecord


def head_map(document: GroupingDocument) -> list[list[int]]:
    """KV head of the converted model that every query head of the source reads, (L, Hq)."""
    repeat = range(document.queries_per_kv)
    return [[group for group in layer.labels for _ in repeat] for layer in document.grouping]


def head_map_json(document: GroupingDocument) -> bytes:
    """``head_map`` as JSON, a line per layer."""
    rows = ",\n  ".join(json.dumps(row) for row in head_map(document))
    counts = json.dumps(document.grouping.group_counts)
    return f'{{\n "num_key_value_heads_per_layer": {counts},\n "head_map": [\n  {rows}\n ]\n}}\n'.encode()


def read_head_map(path: Path, model: ModelRecord) -> list[LayerGrouping]:
    """Layers of a head map JSON; only ``head_map`` is read, with any integers as KV heads.

    Raises ``UserError`` where a layer has not as many query heads as the model, or parts query heads that share a
    KV head in the source.
    """
    rows = integer_rows(path, read_json(path).get("head_map"), "head_map")
    return [_layer(path, index, row, model) for index, row in enumerate(rows)]


def _layer(path: Path, index: int, row: list[int], model: ModelRecord) -> LayerGrouping:
    if len(row) != model.num_attention_heads:
        raise UserError(f"{path}: layer {index} has {len(row)} query heads, the model has {model.num_attention_heads}")
    step = model.num_attention_heads // model.num_key_value_heads
    for head in range(model.num_key_value_heads):
        first, last = head * step, (head + 1) * step - 1
        if len(set(row[first : last + 1])) > 1:
            raise UserError(
                f"{path}: layer {index}: query heads {first} to {last} share KV head {head} of the model and cannot be "
                f"parted; they read {row[first : last + 1]}"
            )
    return LayerGrouping.from_labels(row[::step])
