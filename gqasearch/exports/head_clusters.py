"""Clusters of heads as JSON, as CHAI's offline clustering writes them.

CHAI (arXiv 2403.08058) clusters attention heads; its perform_offline_clustering.py writes
``layer_N_out_cluster.json`` for every layer, a list of lists of heads:
https://github.com/facebookresearch/chai/blob/main/perform_offline_clustering.py
It votes for every head by itself, so that a head may end in two clusters; such a layer is refused.
"""

from __future__ import annotations

import json
from pathlib import Path

from gqasearch.errors import UserError
from gqasearch.exports.reading import shown
from gqasearch.files import read_json_value
from gqasearch.grouping import GroupingError, LayerGrouping
from gqasearch.grouping_document import GroupingDocument, ModelRecord


def head_clusters(document: GroupingDocument) -> bytes:
    """One JSON list for all layers, a line each: what CHAI writes into a file per layer."""
    rows = ",\n ".join(json.dumps(layer.groups) for layer in document.grouping)
    return f"[\n {rows}\n]\n".encode()


def read_head_clusters(path: Path, model: ModelRecord) -> list[LayerGrouping]:
    """Layers of a folder with CHAI's files, or of one JSON: a list over layers, or an object of layer to clusters.

    Raises ``UserError`` that names the file, the layer, and the head that stands in no cluster or in several.
    """
    if path.is_dir():
        files = [path / f"layer_{index}_out_cluster.json" for index in range(model.num_layers)]
        _refuse_more(path, model.num_layers)
        return [_layer(file, index, read_json_value(file), model) for index, file in enumerate(files)]
    data = read_json_value(path)
    if isinstance(data, dict):
        data = _in_order(path, data)
    if not isinstance(data, list):
        raise UserError(f"{path}: must hold a list of layers or an object of layers, holds {shown(data)}")
    return [_layer(path, index, layer, model) for index, layer in enumerate(data)]


def _layer(path: Path, index: int, clusters: object, model: ModelRecord) -> LayerGrouping:
    if not isinstance(clusters, list) or not all(
        isinstance(cluster, list) and all(type(head) is int for head in cluster) for cluster in clusters
    ):
        raise UserError(f"{path}: layer {index} must be a list of lists of heads, is {shown(clusters)}")
    try:
        return LayerGrouping.from_groups(clusters, model.num_key_value_heads)
    except GroupingError as error:
        raise UserError(
            f"{path}: layer {index}: {error}; every one of the model's {model.num_key_value_heads} KV heads must stand "
            "in one cluster"
        ) from None


def _in_order(path: Path, data: dict[str, object]) -> list[object]:
    """Values of {"0": ..., "1": ...} in the order of the keys."""
    missing = [str(index) for index in range(len(data)) if str(index) not in data]
    if missing:
        raise UserError(f"{path}: layer {missing[0]} is missing; keys are {shown(list(data))}")
    return [data[str(index)] for index in range(len(data))]


def _refuse_more(folder: Path, num_layers: int) -> None:
    beyond = folder / f"layer_{num_layers}_out_cluster.json"
    if beyond.exists():
        raise UserError(f"{beyond}: the model has layers 0 to {num_layers - 1}")
