"""A grouping in the forms that other tools read, and back from a table of labels."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from gqasearch.errors import UserError, unknown_name
from gqasearch.grouping import Grouping, GroupingError
from gqasearch.grouping_document import GroupingDocument

CSV_HEADER = ["layer", "head", "group"]


def labels_csv(document: GroupingDocument) -> bytes:
    """CSV with a row per source KV head: layer, head, group. Groups count from 0 within a layer."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for index, layer in enumerate(document.grouping):
        writer.writerows([index, head, group] for head, group in enumerate(layer.labels))
    return text.getvalue().encode()


def head_map(document: GroupingDocument) -> list[list[int]]:
    """KV head of the converted model that every query head of the source reads, (L, Hq)."""
    repeat = range(document.queries_per_kv)
    return [[group for group in layer.labels for _ in repeat] for layer in document.grouping]


def head_map_json(document: GroupingDocument) -> bytes:
    """``head_map`` as JSON, a line per layer."""
    rows = ",\n  ".join(json.dumps(row) for row in head_map(document))
    counts = json.dumps(document.grouping.group_counts)
    return f'{{\n "num_key_value_heads_per_layer": {counts},\n "head_map": [\n  {rows}\n ]\n}}\n'.encode()


def kv_heads_per_layer_json(document: GroupingDocument) -> bytes:
    """``num_key_value_heads_per_layer`` as in the config of models with a KV head count per layer."""
    return (json.dumps({"num_key_value_heads_per_layer": document.grouping.group_counts}) + "\n").encode()


def npz(document: GroupingDocument) -> bytes:
    """NumPy archive without pickles: ``labels`` (L, H), ``head_map`` (L, Hq), ``kv_heads_per_layer`` (L,)."""
    data = io.BytesIO()
    np.savez(
        data,
        allow_pickle=False,
        labels=np.array([layer.labels for layer in document.grouping], dtype=np.int64),
        head_map=np.array(head_map(document), dtype=np.int64),
        kv_heads_per_layer=np.array(document.grouping.group_counts, dtype=np.int64),
    )
    return data.getvalue()


EXPORTS: dict[str, Callable[[GroupingDocument], bytes]] = {
    "head-map": head_map_json,
    "kv-heads-per-layer": kv_heads_per_layer_json,
    "labels-csv": labels_csv,
    "npz": npz,
}


def export(document: GroupingDocument, form: str) -> bytes:
    """The document in one of ``EXPORTS``; the same document gives the same bytes."""
    if form not in EXPORTS:
        raise unknown_name("export format", form, EXPORTS)
    return EXPORTS[form](document)


def read_labels_csv(path: Path) -> Grouping:
    """The grouping in a CSV of layer, head, group; rows in any order, any integers as groups.

    Raises ``UserError`` that names the file and the line, or the layer, that is wrong.
    """
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV: {error}") from None
    if not rows or [cell.strip() for cell in rows[0]] != CSV_HEADER:
        raise UserError(f"{path}: the first line must be {','.join(CSV_HEADER)}")
    labels: dict[int, dict[int, int]] = {}
    for line, row in enumerate(rows[1:], start=2):
        layer, head, group = _integers(path, line, row)
        if head in labels.setdefault(layer, {}):
            raise UserError(f"{path}: line {line}: head {head} of layer {layer} was given before")
        labels[layer][head] = group
    _check_complete(path, labels)
    try:
        return Grouping.from_labels([[labels[i][h] for h in range(len(labels[i]))] for i in range(len(labels))])
    except GroupingError as error:
        raise UserError(f"{path}: {error}") from None


def _integers(path: Path, line: int, row: list[str]) -> list[int]:
    try:
        values = [int(cell) for cell in row]
    except ValueError:
        values = []
    if len(values) != len(CSV_HEADER) or min(values[:2]) < 0:
        raise UserError(f"{path}: line {line}: must be three integers ({', '.join(CSV_HEADER)}), is {','.join(row)!r}")
    return values


def _check_complete(path: Path, labels: dict[int, dict[int, int]]) -> None:
    """Layers, and heads inside each, must count 0, 1, 2 ... without a hole."""
    numbered: list[tuple[str, Collection[int]]] = [("layer", labels)]
    numbered += [(f"layer {index}: head", heads) for index, heads in sorted(labels.items())]
    for what, known in numbered:
        missing = [number for number in range(len(known)) if number not in known]
        if missing:
            raise UserError(f"{path}: {what} {missing[0]} is missing")
