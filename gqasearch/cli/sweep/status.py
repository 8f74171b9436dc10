"""``gqasearch sweep status``: where a study stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gqasearch.cli.messages import clear_errors, output_console, print_json, quiet_libraries
from gqasearch.cli.sweep.study_options import File, Json, OutputDir, Storage, StudyName

if TYPE_CHECKING:
    import optuna
    from rich.console import Console

    from gqasearch.sweeps.definition import Sweep
    from gqasearch.sweeps.study import Place

STATES = ("complete", "pruned", "running", "waiting", "failed")


def status(
    file: File = None,
    storage: Storage = None,
    study_name: StudyName = None,
    output_dir: OutputDir = None,
    json_: Json = False,
) -> None:
    """Trials by state and by host, and the best so far.

    Example: gqasearch sweep status rates.yaml
    """
    with clear_errors():
        quiet_libraries(0)
        from gqasearch.sweeps.study import load, locate

        _, place = locate(file, storage, study_name, output_dir)
        record = status_record(*load(place), place)
        if json_:
            print_json(record)
        else:
            print_status(output_console(), record)


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


def print_status(console: Console, record: dict[str, Any]) -> None:
    """The same as tables."""
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
    if record["best"]:
        best = Table("best trial", *record["objectives"], "parameters", box=box.SIMPLE_HEAD)
        for row in record["best"]:
            words = ", ".join(
                f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
                for name, value in row["parameters"].items()
            )
            best.add_row(str(row["trial"]), *(f"{value:.5g}" for value in row["values"].values()), words)
        console.print(best)
    for row in record["errors"]:
        console.print(f"trial {row['trial']} failed: {row['error']}", markup=False, highlight=False)
