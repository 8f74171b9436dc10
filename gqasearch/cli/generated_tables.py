"""``gqasearch evaluate --generate``: texts side by side, then how both models use a long context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from gqasearch.cli.messages import output_console, print_json


def on_generation(checkpoint: Path, given: dict[str, Any], prompts: list[str], trust: bool, json_: bool) -> None:
    """Print what was found; of a finished run it is kept in its folder, and its page is made again."""
    from rich.console import Console

    from gqasearch.reporting import SearchProgress
    from gqasearch.run.generated import kept_in_run
    from gqasearch.run.origin import checkpoint_folder, evaluation_config
    from gqasearch.steps import Workspace
    from gqasearch.steps.generate import generate

    folder, settings = checkpoint_folder(checkpoint), evaluation_config(checkpoint, given)
    with SearchProgress(Console(stderr=True), quiet=json_) as progress:
        found = generate(Workspace(settings, progress), folder, prompts, trust_remote_code=trust)
    page = kept_in_run(checkpoint, found)
    if json_:
        print_json(found)
        return
    _show(found)
    if page is not None:
        typer.echo(f"report  {page}")


def _show(record: dict[str, Any]) -> None:
    from gqasearch.reporting.continuations import generated, samples_table
    from gqasearch.reporting.text_table import rich_table

    found, console = generated(record), output_console()
    console.print(samples_table(found))
    for table in found.tables:
        console.print(rich_table(table))
    console.print(found.note, markup=False, highlight=False)
