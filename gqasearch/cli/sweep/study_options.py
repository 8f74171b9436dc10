"""The options that every sweep verb takes: which study, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[Path | None, typer.Argument(help="The sweep's YAML file; or give --study-name.")]
Storage = Annotated[
    str | None,
    typer.Option(
        help="sqlite:///FILE, or postgresql+psycopg://USER@HOST/DATABASE for many machines; also taken from "
        "GQASEARCH_STORAGE, which keeps a password off the command line. [default: study.db in the output folder]"
    ),
]
StudyName = Annotated[str | None, typer.Option(help="Name of the study. [default: the file's name]")]
OutputDir = Annotated[Path | None, typer.Option(help="Folder of the trials on this machine. [default: sweeps/NAME]")]
Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
