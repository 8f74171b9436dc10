"""Tables of rounded KV caches, as ``evaluate --kv-bits``, ``search --kv-bits`` and ``search --kv-bytes`` print them."""

from __future__ import annotations

from typing import Any

import typer

from gqasearch.cli.messages import output_console


def show_rounded(metrics: dict[str, Any]) -> None:
    """Every model as it is stored, and in every format of ``metrics["rounded"]``."""
    from rich.table import Table

    from gqasearch.reporting.rounded_rows import HEADERS, rounded_results, rounded_rows

    table = Table(*HEADERS)
    for row in rounded_rows(rounded_results(metrics)):
        table.add_row(*row)
    output_console().print(table)
    typer.echo("KL: to the parent whose cache is not rounded; --json has 95% intervals")


def show_decision(record: dict[str, Any]) -> None:
    """What was compared for a budget in bytes."""
    from rich.table import Table

    from gqasearch.steps.kv_bytes import decision_table

    header, *rows = decision_table(record)
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    output_console().print(table)
