"""A grouping in the forms that other tools read and write; one file per form."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gqasearch.errors import UserError, unknown_name
from gqasearch.exports.frame import frame_csv, frame_json, grouping_frame
from gqasearch.exports.head_clusters import head_clusters, read_head_clusters
from gqasearch.exports.head_map import head_map, head_map_json, read_head_map
from gqasearch.exports.kv_heads import block_configs_json, kv_heads_per_layer_json
from gqasearch.exports.labels_csv import labels_csv, read_labels_csv
from gqasearch.exports.npz import npz, read_npz
from gqasearch.exports.qcqa import read_qcqa
from gqasearch.exports.reading import check_counts
from gqasearch.grouping import LayerGrouping
from gqasearch.grouping_document import GroupingDocument, LayerRecord, ModelRecord

__all__ = ["EXPORTS", "IMPORTS", "export", "grouping_frame", "head_map", "import_grouping"]

EXPORTS: dict[str, Callable[[GroupingDocument], bytes]] = {
    "block-configs": block_configs_json,
    "frame-csv": frame_csv,
    "frame-json": frame_json,
    "head-clusters": head_clusters,
    "head-map": head_map_json,
    "kv-heads-per-layer": kv_heads_per_layer_json,
    "labels-csv": labels_csv,
    "npz": npz,
}

IMPORTS: dict[str, Callable[..., list[LayerGrouping]]] = {
    "head-clusters": read_head_clusters,
    "head-map": read_head_map,
    "labels-csv": read_labels_csv,
    "npz": read_npz,
    "qcqa": read_qcqa,
}

IMPORT_OPTIONS = {"qcqa": {"kv_heads", "row"}}


def export(document: GroupingDocument, form: str) -> bytes:
    """The document in one of ``EXPORTS``; the same document gives the same bytes."""
    if form not in EXPORTS:
        raise unknown_name("export format", form, EXPORTS)
    return EXPORTS[form](document)


def import_grouping(path: Path, form: str, model: ModelRecord, **options: Any) -> GroupingDocument:
    """The grouping of ``model`` in a file or folder of one of ``IMPORTS``; it names no merge.

    ``options``: of the form's reader. Raises ``UserError`` that names the file and the line or layer that is wrong.
    """
    if form not in IMPORTS:
        raise unknown_name("import format", form, IMPORTS)
    strange = sorted(options.keys() - IMPORT_OPTIONS.get(form, set()))
    if strange:
        raise UserError(f"format {form} takes no --{strange[0].replace('_', '-')}")
    layers = IMPORTS[form](path, model, **options)
    check_counts(path, layers, model)
    return GroupingDocument(model, tuple(map(LayerRecord, layers)))
