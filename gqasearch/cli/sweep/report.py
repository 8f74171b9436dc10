"""``gqasearch sweep report``: the page on a sweep, made again."""

from __future__ import annotations

import typer

from gqasearch.cli.messages import clear_errors, quiet_libraries
from gqasearch.cli.sweep.study_options import File, OutputDir, Storage, StudyName, locate


def report(
    file: File = None, storage: Storage = None, study_name: StudyName = None, output_dir: OutputDir = None
) -> None:
    """Write report.html of the output folder from the study as it is now; also while workers are busy.

    Example: gqasearch sweep report rates.yaml
    """
    with clear_errors():
        quiet_libraries(0)
        from gqasearch.sweeps.study import load
        from gqasearch.sweeps.sweep_report import write_sweep_report

        _, place = locate(file, storage, study_name, output_dir)
        study, sweep = load(place)
        write_sweep_report(study, sweep, place)
        typer.echo(f"report  {place.report}")
