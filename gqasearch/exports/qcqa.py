"""Results of the public reproduction of QCQA (arXiv 2406.10247).

Its expt.py writes ``algo1_result_layer_N.csv`` for every layer, a front of candidates: columns ``LNH0`` ... with the
group of every head, ``KV Cache`` and ``WSE``; and ``algo2_result.csv``, candidates of which layers to group: columns
``L0`` ... with 1 for a grouped layer, ``KV Cache`` and ``WSE``. https://github.com/vinayjoshi22/qcqa
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from gqasearch.errors import UserError
from gqasearch.exports.reading import read_rows
from gqasearch.grouping import LayerGrouping
from gqasearch.grouping_document import ModelRecord

FIGURES = ["KV Cache", "WSE"]


@dataclass(frozen=True)
class _Candidate:
    labels: list[int]
    error: float

    @property
    def layer(self) -> LayerGrouping:
        return LayerGrouping.from_labels(self.labels)


def read_qcqa(
    path: Path, model: ModelRecord, *, kv_heads: int | None = None, row: int | None = None
) -> list[LayerGrouping]:
    """Layers of a folder of results: of every layer the candidate of the lowest WSE, as its second algorithm takes it.

    ``kv_heads``: only candidates with so many groups. (Its WSE multiplies weights by the number of the group, so that
    all heads in group 0 cost nothing and are often the lowest.) ``row``: layers that this candidate of
    ``algo2_result.csv``, from 0, leaves out keep all their heads.

    Raises ``UserError`` that names the file and the line that is wrong.
    """
    if kv_heads is not None and row is not None:
        raise UserError(
            "--kv-heads and --row exclude each other: algo2_result.csv is about the lowest WSE of each layer"
        )
    if not path.is_dir():
        raise UserError(f"{path}: must be the folder that holds algo1_result_layer_0.csv and the other layers'")
    beyond = path / f"algo1_result_layer_{model.num_layers}.csv"
    if beyond.exists():
        raise UserError(f"{beyond}: the model has layers 0 to {model.num_layers - 1}")
    layers = [_best(path / f"algo1_result_layer_{i}.csv", i, model, kv_heads) for i in range(model.num_layers)]
    if row is None:
        return layers
    grouped = _grouped_layers(path / "algo2_result.csv", model, row)
    whole = LayerGrouping.singletons(model.num_key_value_heads)
    return [layer if taken else whole for layer, taken in zip(layers, grouped, strict=True)]


def _best(path: Path, layer: int, model: ModelRecord, kv_heads: int | None) -> LayerGrouping:
    columns = [f"L{layer}H{head}" for head in range(model.num_key_value_heads)]
    found = [_Candidate(labels, error) for labels, error in _candidates(path, columns, "heads")]
    fitting = [one for one in found if kv_heads is None or one.layer.num_groups == kv_heads]
    if not fitting:
        counts = sorted({one.layer.num_groups for one in found})
        raise UserError(f"{path}: no candidate has {kv_heads} groups; there are {', '.join(map(str, counts))}")
    return min(fitting, key=lambda one: one.error).layer


def _grouped_layers(path: Path, model: ModelRecord, row: int) -> list[int]:
    columns = [f"L{layer}" for layer in range(model.num_layers)]
    found = _candidates(path, columns, "layers")
    if not 0 <= row < len(found):
        raise UserError(f"{path}: has no row {row}; rows are 0 to {len(found) - 1}")
    taken = found[row][0]
    if not set(taken) <= {0, 1}:
        raise UserError(f"{path}: row {row}: layers must be 0 or 1, are {taken}")
    return taken


def _candidates(path: Path, columns: list[str], what: str) -> list[tuple[list[int], float]]:
    """(values of ``columns``, WSE) of every row."""
    header, rows = read_rows(path)
    if header != columns + FIGURES:
        given = [name for name in header if re.fullmatch(r"L\d+(H\d+)?", name)]
        raise UserError(
            f"{path}: columns must be {columns[0]} to {columns[-1]}, {', '.join(FIGURES)}, "
            f"for the model's {len(columns)} {what}; there are {len(given)} of {what}: {', '.join(header[:3])}, ..."
        )
    if not rows:
        raise UserError(f"{path}: has no candidates")
    return [(_labels(path, line, row, len(columns)), _error(path, line, row)) for line, row in rows]


def _labels(path: Path, line: int, row: list[str], count: int) -> list[int]:
    try:
        values = [float(cell) for cell in row[:count]]  # pandas wrote them beside floats, as 3.0
    except ValueError:
        values = []
    if len(row) != count + len(FIGURES) or not values or not all(value.is_integer() for value in values):
        raise UserError(
            f"{path}: line {line}: must be {count} integers and {len(FIGURES)} numbers, is {','.join(row)!r}"
        )
    return [int(value) for value in values]


def _error(path: Path, line: int, row: list[str]) -> float:
    try:
        error = float(row[-1])
    except ValueError:
        error = math.nan
    if not math.isfinite(error):
        raise UserError(f"{path}: line {line}: WSE must be a finite number, is {row[-1]!r}")
    return error
