"""``gqasearch sweep status``: where a study stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gqasearch.cli.messages import clear_errors, output_console, print_json, quiet_libraries
from gqasearch.cli.sweep.study_options import File, Json, OutputDir, Storage, StudyName, locate

if TYPE_CHECKING:
    import optuna
    from rich.console import Console

    from gqasearch.sweeps.definition import Sweep
    from gqasearch.sweeps.study import Place

SHOWN = 20  # trials of a table
STATES = ("complete", "pruned", "running", "waiting", "failed")


def status(
    file: File = None,
    storage: Storage = None,
    study_name: StudyName = None,
    output_dir: OutputDir = None,
    all_: Annotated[bool, typer.Option("--all", help=f"Show every trial, not the {SHOWN} best and newest.")] = False,
    json_: Json = False,
) -> None:
    """Trials by state and by host, and a table of them: objectives, what was varied, and the run folder.

    Example: gqasearch sweep status rates.yaml
    """
    with clear_errors():
        quiet_libraries(0)
        from gqasearch.sweeps.study import load

        _, place = locate(file, storage, study_name, output_dir)
        study, sweep = load(place)
        record = status_record(study, sweep, place)
        if json_:
            print_json(record)
        else:
            print_status(output_console(), study, sweep, record, None if all_ else SHOWN)


def status_record(study: optuna.Study, sweep: Sweep, place: Place) -> dict[str, Any]:
    """What is shown, for machines; the storage without its password."""
    from gqasearch.sweeps.best import best_trials
    from gqasearch.sweeps.export import by_host
    from gqasearch.sweeps.study import ERROR, Standing

    standing = Standing.of(study)
    best = best_trials(study, sweep) if standing.complete else []
    return {
        "study": place.study_name,
        "storage": place.storage.shown,
        "output_dir": str(place.output_dir),
        "objectives": list(sweep.objectives),
        "wanted": standing.wanted,
        "trials": {state: getattr(standing, state) for state in STATES},
        "hosts": by_host(study),
        "best": [{"trial": one.number, "values": one.values, "parameters": one.parameters} for one in best],
        "errors": [{"trial": trial.number, "error": trial.user_attrs[ERROR]} for trial in standing.wrong],
    }


def print_status(
    console: Console, study: optuna.Study, sweep: Sweep, record: dict[str, Any], count: int | None = SHOWN
) -> None:
    """The same as tables, of at most ``count`` trials; None: of all."""
    from rich import box
    from rich.table import Table

    counts = ", ".join(f"{count} {state}" for state, count in record["trials"].items() if count)
    console.print(f"study {record['study']} in {record['storage']}", markup=False, highlight=False)
    console.print(f"{record['wanted']} trials wanted: {counts or 'none yet'}", highlight=False)
    hosts = Table("host", "complete", "pruned", "running", "failed", box=box.SIMPLE_HEAD)
    for host in record["hosts"]:
        hosts.add_row(*(str(value) for value in host.values()))
    if record["hosts"]:
        console.print(hosts)
        _print_trials(console, study, sweep, {row["trial"] for row in record["best"]}, count)
        console.print(f"run folders in {record['output_dir']}", markup=False, highlight=False, soft_wrap=True)
    for row in record["errors"]:
        console.print(f"trial {row['trial']} failed: {row['error']}", markup=False, highlight=False)


def _print_trials(console: Console, study: optuna.Study, sweep: Sweep, best: set[int], count: int | None) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from gqasearch.sweeps.export import best_and_newest, trials_frame

    frame = trials_frame(study, sweep)
    shown = frame if count is None else best_and_newest(frame, sweep.objectives[0], sorted(best), count)
    ratio = [] if "kv-ratio" in sweep.objectives else ["kv-ratio"]
    table = Table("trial", "state", *sweep.objectives, *ratio, "varied", "folder", box=box.SIMPLE_HEAD)
    for _, row in shown.iterrows():
        figures = [row[name] for name in (*sweep.objectives, *(f"measured.{name}" for name in ratio))]
        varied = {name: row[f"set.{name}"] for name in sweep.parameters}
        words = ", ".join(f"{name}={_short(value)}" for name, value in varied.items() if _short(value))
        state = "best" if row["number"] in best else row["state"].replace("fail", "failed")
        folder = Path(row["folder"]).name if row["folder"] else ""
        table.add_row(*map(Text, (str(row["number"]), state, *map(_short, figures), words, folder)))
    console.print(table)
    if len(shown) < len(frame):
        console.print(f"{len(frame) - len(shown)} more trials with --all", markup=False, highlight=False)


def _short(value: Any) -> str:
    """Empty where a trial has none."""
    import pandas as pd

    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    if isinstance(value, float) and value.is_integer():  # which pandas makes of whole numbers where some have none
        return str(int(value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
