"""``gqasearch sweep FILE.yaml``: start a study, or join it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gqasearch.cli.messages import clear_errors, output_console, print_json, quiet_libraries
from gqasearch.cli.sweep.study_options import Json, OutputDir, Storage, StudyName, locate


def start(
    file: Annotated[Path, typer.Argument(help="What is drawn, what is fixed, what is minimised; see docs/sweeps.md.")],
    storage: Storage = None,
    study_name: StudyName = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials of the whole study, all machines together. [default: the file's]")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    output_dir: OutputDir = None,
    dry_run: Annotated[bool, typer.Option(help="Check the file and say what would be done.")] = False,
    json_: Json = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors and --json.")] = False,
) -> None:
    """Run trials until the study has enough of them.

    Ctrl-C stops it; the same command goes on, on this machine or, with a shared --storage, on others at the same time.

    Example: gqasearch sweep rates.yaml --trials 60 --workers 2
    """
    with clear_errors(resumable=True):
        quiet_libraries(0)
        from rich.console import Console

        from gqasearch.cli.sweep.status import print_status, status_record
        from gqasearch.errors import UserError
        from gqasearch.reporting import SearchProgress
        from gqasearch.sweeps.launch import launch
        from gqasearch.sweeps.study import TRIALS, begin, best_words
        from gqasearch.sweeps.sweep_report import write_sweep_report

        sweep, place = locate(file, storage, study_name, output_dir)
        if sweep is None:
            raise UserError(f"{file}: no sweep")
        if dry_run:
            typer.echo(f"# study {place.study_name} in {place.storage.shown}; trials in {place.output_dir}")
            return
        study = begin(sweep, place, trials)
        with SearchProgress(Console(stderr=True), quiet=quiet or json_) as progress:
            progress.stage(f"sweep {place.study_name}", total=study.user_attrs[TRIALS])
            standing = launch(
                study, place, workers, lambda now: progress.update(now.decided, detail=best_words(study, sweep, now))
            )
        if standing.complete:
            write_sweep_report(study, sweep, place)
        record = status_record(study, sweep, place)
        if json_:
            print_json(record)
        elif not quiet:
            print_status(output_console(), study, sweep, record)
            typer.echo(f"report  {place.report}")
