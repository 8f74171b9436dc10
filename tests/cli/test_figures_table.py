"""Figures side by side: the same digits in every row, and in what numbers KV bytes are counted."""

from __future__ import annotations

from rich.console import Console

from gqasearch.cli.figures_table import figures_table


def rows(**models: dict[str, object]) -> list[list[str]]:
    console = Console(width=120)
    with console.capture() as printed:
        console.print(figures_table(models))
    cells = [[cell for cell in line.strip().split("   ") if cell.strip()] for line in printed.get().splitlines()]
    return [row for row in cells if len(row) == 1 + len(models)]


def test_digits_and_labels() -> None:
    own = {"perplexity": 12.0, "kl": 0.0, "kv_bytes_per_token": 9216, "kv_value_bits": 32, "parameters": 3050112}
    mine = {**own, "perplexity": 13.14159, "kl": 0.0712345, "kv_bytes_per_token": 4608}
    found = {name: [cell.strip() for cell in cells] for name, *cells in rows(parent=own, converted=mine)}
    assert found == {
        "perplexity": ["12.00", "13.14"],
        "KL to the parent, nats per token": ["0", "0.0712"],
        "KV bytes per token in 32 bits as stored": ["9,216", "4,608"],
        "parameters": ["3,050,112", "3,050,112"],
    }
