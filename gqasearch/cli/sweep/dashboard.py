"""``gqasearch sweep dashboard``: optuna-dashboard on a study."""

from __future__ import annotations

from typing import Annotated

import typer

from gqasearch.cli.messages import clear_errors, quiet_libraries
from gqasearch.cli.sweep.study_options import File, OutputDir, Storage, StudyName, locate


def dashboard(
    file: File = None,
    storage: Storage = None,
    study_name: StudyName = None,
    output_dir: OutputDir = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: any free one.")] = 8080,
) -> None:
    """Serve optuna-dashboard (pip install 'gqasearch[dashboard]') on this machine until Ctrl-C.

    It listens on 127.0.0.1 alone, for browsers that have the token of the address it prints: optuna-dashboard itself
    knows no users, and whoever reaches it may delete every study of the storage. From another machine: ssh -L.

    Example: gqasearch sweep dashboard rates.yaml
    """
    with clear_errors():
        quiet_libraries(0)
        from gqasearch.sweeps.dashboard import serve
        from gqasearch.sweeps.study import load

        _, place = locate(file, storage, study_name, output_dir)
        load(place)
        serve(place, port, lambda address: typer.echo(f"{address}  (Ctrl-C ends it)"))
