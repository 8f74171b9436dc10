"""``gqasearch sweep export``: all trials as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from gqasearch.cli.messages import clear_errors, quiet_libraries
from gqasearch.cli.sweep.study_options import File, OutputDir, Storage, StudyName, locate


def export(
    file: File = None,
    storage: Storage = None,
    study_name: StudyName = None,
    output_dir: OutputDir = None,
    format_: Annotated[str, typer.Option("--format", help="csv or json.")] = "csv",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File. [default: standard output]")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Write a row per trial: state, objectives, parameters, everything measured, host, folder, error.

    Example: gqasearch sweep export rates.yaml -o rates.csv
    """
    with clear_errors():
        quiet_libraries(0)
        from gqasearch.errors import unknown_name
        from gqasearch.files import write_file
        from gqasearch.sweeps.export import trials_frame
        from gqasearch.sweeps.study import load

        if format_ not in ("csv", "json"):
            raise unknown_name("format", format_, ("csv", "json"))
        _, place = locate(file, storage, study_name, output_dir)
        frame = trials_frame(*load(place))
        if format_ == "csv":
            text = frame.to_csv(index=False)
        else:  # pandas' own writer rounds
            rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
            text = json.dumps(rows, indent=1) + "\n"
        if output is None:
            typer.echo(text, nl=False)
        else:
            write_file(output, text, overwrite=overwrite)
