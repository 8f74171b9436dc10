"""Figures of models side by side, as ``evaluate`` and ``heal`` print them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def figures_table(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """A column per model, of records of ``metrics.json``: perplexity with four significant digits, distances to the
    parent with three, whole numbers in full.
    """
    from rich import box
    from rich.table import Table

    from gqasearch.reporting.numbers import number_text
    from gqasearch.reporting.tables import stored_words

    records = list(models.values())
    rows: dict[str, tuple[str, Callable[[Any], str]]] = {
        "perplexity": ("perplexity", lambda value: number_text(value, 4)),
        "kl": ("KL to the parent, nats per token", number_text),
        "hidden_error": ("hidden-state error", number_text),
        "bits_per_byte": ("bits per byte", lambda value: number_text(value, 4)),
        "kv_bytes_per_token": (f"KV bytes per token {stored_words(records[0])}", lambda value: f"{value:,}"),
        "parameters": ("parameters", lambda value: f"{value:,}"),
    }
    table = Table("", box=box.SIMPLE_HEAD)
    for name in models:
        table.add_column(name, justify="right")
    for name, (words, shown) in rows.items():
        if name in records[0]:
            table.add_row(words, *(shown(record[name]) for record in records))
    for kind in records[-1].get("embedding_cosine", {}):
        cosines = [record.get("embedding_cosine", {kind: 1.0})[kind] for record in records]
        table.add_row(f"cosine of sentence embeddings, {kind} text", *(f"{cosine:.4f}" for cosine in cosines))
    return table
