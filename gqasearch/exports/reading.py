"""What the readers of other tools' files share."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from gqasearch.errors import UserError
from gqasearch.grouping import LayerGrouping
from gqasearch.grouping_document import ModelRecord


def read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a CSV, and its rows with the numbers of their lines; an empty file has an empty header."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            header = [cell.strip() for cell in next(reader, [])]
            return header, [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV: {error}") from None


def integer_rows(path: Path, value: object, what: str) -> list[list[int]]:
    """``value`` as a list with a list of integers per layer; raises ``UserError`` that names the layer."""
    if not isinstance(value, list):
        raise UserError(f"{path}: {what} must be a list with an entry per layer, is {type(value).__name__}")
    for index, row in enumerate(value):
        if not isinstance(row, list) or not all(type(number) is int for number in row):
            raise UserError(f"{path}: layer {index}: {what} must be a list of integers, is {shown(row)}")
    return value


def check_counts(path: Path, layers: Sequence[LayerGrouping], model: ModelRecord) -> None:
    """Refuse layers that are not as many as the model's, or not of as many heads."""
    if len(layers) != model.num_layers:
        raise UserError(f"{path}: has {len(layers)} layers, the model has {model.num_layers}")
    for index, layer in enumerate(layers):
        if layer.num_heads != model.num_key_value_heads:
            queries = " (these may be query heads, which share KV heads in this model: KV heads are what is grouped)"
            hint = queries if layer.num_heads == model.num_attention_heads else ""
            raise UserError(
                f"{path}: layer {index} groups {layer.num_heads} heads, the model has {model.num_key_value_heads} "
                f"KV heads{hint}"
            )


def shown(value: object) -> str:
    """A value as text, the start of a long one."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
