"""``gqasearch report``: one page for one or several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gqasearch.cli.messages import clear_errors, output_console, quiet_libraries


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one model, measured on the same text.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="HTML file. [default: report.html of the first run]")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Also write the table as CSV.")] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace existing files.")] = False,
) -> None:
    """Write one self-contained HTML page and print the table.

    Example: gqasearch report runs/a runs/b -o comparison.html
    """
    with clear_errors():
        quiet_libraries(0)
        from gqasearch.errors import UserError
        from gqasearch.files import write_file
        from gqasearch.reporting.html import write_report
        from gqasearch.reporting.tables import results_csv, results_frame, results_table
        from gqasearch.run import RunFolder, report_data

        folders = [RunFolder(path) for path in runs]
        # A run's own page is made again without asking: everything in it comes from the run's files.
        page = output or folders[0].report
        if output is not None and page.exists() and not overwrite:
            raise UserError(f"{page} exists already; give --overwrite to replace it")
        data = report_data(folders, title)
        write_report(page, data)
        if csv is not None:
            write_file(csv, results_csv(results_frame(data)), overwrite=overwrite)
        output_console().print(results_table(data))
        typer.echo(f"report  {page}")
