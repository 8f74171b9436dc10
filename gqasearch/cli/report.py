"""``gqasearch report``: one page for one or several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gqasearch.cli.messages import clear_errors, output_console, quiet_libraries


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, or folders of healing runs, of one model and one text.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="HTML file. [default: report.html of the first run]")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Also write the table as CSV; of healing runs, all their evaluations.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Of healing runs: what the start of each is called, in their order. Repeatable."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace existing files.")] = False,
) -> None:
    """Write one self-contained HTML page and print the table.

    Example: gqasearch report runs/a runs/b -o comparison.html
    """
    with clear_errors():
        quiet_libraries(0)
        from gqasearch.errors import UserError
        from gqasearch.run.heal.healed_runs import all_healing

        # A run's own page is made again without asking: everything in it comes from the run's files.
        page = output or runs[0] / "report.html"
        if output is not None and page.exists() and not overwrite:
            raise UserError(f"{page} exists already; give --overwrite to replace it")
        if all_healing(runs):
            _report_healing(runs, page, csv, title, label, overwrite)
        elif label:
            raise UserError("--label names the starts of healing runs; these are none")
        else:
            _report_runs(runs, page, csv, title, overwrite)
        typer.echo(f"report  {page}")


def _report_runs(runs: list[Path], page: Path, csv: Path | None, title: str | None, overwrite: bool) -> None:
    from gqasearch.files import write_file
    from gqasearch.reporting.html import write_report
    from gqasearch.reporting.tables import results_csv, results_frame, results_table
    from gqasearch.run import RunFolder, report_data

    data = report_data([RunFolder(path) for path in runs], title)
    write_report(page, data)
    if csv is not None:
        write_file(csv, results_csv(results_frame(data)), overwrite=overwrite)
    output_console().print(results_table(data))


def _report_healing(
    runs: list[Path], page: Path, csv: Path | None, title: str | None, labels: list[str] | None, overwrite: bool
) -> None:
    from gqasearch.files import write_file
    from gqasearch.reporting.healing_html import write_healing
    from gqasearch.reporting.healing_tables import figures_table, headlines, history_csv, tokens_table
    from gqasearch.reporting.text_table import rich_table
    from gqasearch.run.heal.healed_runs import healing_data

    data = healing_data(runs, title, labels or None)
    write_healing(page, data)
    if csv is not None:
        write_file(csv, history_csv(data), overwrite=overwrite)
    console = output_console()
    for table in (figures_table(data), tokens_table(data)):
        console.print(rich_table(table))
    for line in headlines(data):
        console.print(line, markup=False, highlight=False)
