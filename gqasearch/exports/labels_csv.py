"""Labels as CSV: a row per layer and head of the source, with the group that the head is in."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from pathlib import Path

from gqasearch.errors import UserError
from gqasearch.exports.reading import read_rows
from gqasearch.grouping import LayerGrouping
from gqasearch.grouping_document import GroupingDocument, ModelRecord

CSV_HEADER = ["layer", "head", "group"]


def labels_csv(document: GroupingDocument) -> bytes:
    """CSV with a row per source KV head: layer, head, group. Groups count from 0 within a layer."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for index, layer in enumerate(document.grouping):
        writer.writerows([index, head, group] for head, group in enumerate(layer.labels))
    return text.getvalue().encode()


def read_labels_csv(path: Path, model: ModelRecord) -> list[LayerGrouping]:
    """Layers of a CSV of layer, head, group; rows in any order, any integers as groups.

    Raises ``UserError`` that names the file and the line, or the layer, that is wrong.
    """
    header, rows = read_rows(path)
    if header != CSV_HEADER:
        raise UserError(f"{path}: the first line must be {','.join(CSV_HEADER)}, is {','.join(header)!r}")
    labels: dict[int, dict[int, int]] = {}
    for line, row in rows:
        layer, head, group = _integers(path, line, row)
        if layer >= model.num_layers:
            raise UserError(f"{path}: line {line}: layer {layer}; the model has layers 0 to {model.num_layers - 1}")
        if head in labels.setdefault(layer, {}):
            raise UserError(f"{path}: line {line}: head {head} of layer {layer} was given before")
        labels[layer][head] = group
    _check_complete(path, labels)
    return [LayerGrouping.from_labels([labels[i][h] for h in range(len(labels[i]))]) for i in range(len(labels))]


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
