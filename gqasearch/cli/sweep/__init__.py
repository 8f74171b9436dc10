"""``gqasearch sweep``: one file per verb; ``gqasearch sweep FILE.yaml`` starts or joins a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from gqasearch.cli.sweep.best import best
from gqasearch.cli.sweep.dashboard import dashboard
from gqasearch.cli.sweep.export import export
from gqasearch.cli.sweep.report import report
from gqasearch.cli.sweep.start import start
from gqasearch.cli.sweep.status import status

START = "start"
HELP = """Sweeps over search settings: Optuna studies whose trials are ordinary run folders.

Example: gqasearch sweep FILE.yaml --trials 60 --workers 2

The same command started again, or on another machine with the same --storage, joins the study; `gqasearch sweep start
--help` lists its options. docs/sweeps.md describes the file.
"""


class _FileIsStart(TyperGroup):
    """``sweep FILE.yaml`` means ``sweep start FILE.yaml``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_file = bool(args) and (args[0].startswith("-") or "." in args[0] or Path(args[0]).is_file())
        if is_file and args[0] not in ctx.help_option_names:
            args = [START, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_FileIsStart,
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (start, status, best, export, report, dashboard):
    app.command()(verb)
