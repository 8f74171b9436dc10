"""The options that every sweep verb takes: which study, and where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gqasearch.cli.config_file import SWEEP, read_config

if TYPE_CHECKING:
    from gqasearch.sweeps.definition import Sweep
    from gqasearch.sweeps.study import Place

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


def locate(
    file: Path | None, storage: str | None, study_name: str | None, output_dir: Path | None
) -> tuple[Sweep | None, Place]:
    """As ``gqasearch.sweeps.study.locate``; refuses other commands' files, and names the command."""
    from gqasearch.sweeps import study

    if file is not None:
        read_config(file, SWEEP)
    return study.locate(file, storage, study_name, output_dir)
