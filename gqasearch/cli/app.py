"""The application and its verbs."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from gqasearch import __version__
from gqasearch.cli.compare import compare
from gqasearch.cli.doctor import doctor
from gqasearch.cli.evaluate import evaluate
from gqasearch.cli.export import export
from gqasearch.cli.export_gguf import export_gguf
from gqasearch.cli.heal import heal
from gqasearch.cli.import_grouping import import_grouping
from gqasearch.cli.ls import ls
from gqasearch.cli.materialize import materialize
from gqasearch.cli.report import report
from gqasearch.cli.search import search
from gqasearch.cli.sweep import app as sweep
from gqasearch.cli.usage_errors import OneLineErrors
from gqasearch.cli.validate import validate

app = typer.Typer(
    name="gqasearch",
    cls=OneLineErrors,
    help="Make a grouped-query checkpoint out of a multi-head one, and keep its quality.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (search, compare, materialize, heal, evaluate, export, export_gguf, validate, doctor, ls, report):
    app.command()(verb)
app.command("import")(import_grouping)  # a word that no function can be named
app.add_typer(sweep, name="sweep")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gqasearch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Make a grouped-query checkpoint out of a multi-head one, and keep its quality."""


def main() -> None:
    """Entry point of the ``gqasearch`` command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without some letter still gets the rest
    try:
        Path.cwd()
    except FileNotFoundError:  # on which Python itself and most libraries fail when they are imported
        raise SystemExit("gqasearch: the folder you are in was removed; change to another") from None
    app()
