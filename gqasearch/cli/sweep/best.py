"""``gqasearch sweep best``: the best trials, on text that no trial was compared on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gqasearch.cli.messages import clear_errors, output_console, print_json, quiet_libraries
from gqasearch.cli.sweep.study_options import File, Json, OutputDir, Storage, StudyName, locate

if TYPE_CHECKING:
    from gqasearch.sweeps.best import Best


def best(
    file: File = None,
    storage: Storage = None,
    study_name: StudyName = None,
    output_dir: OutputDir = None,
    trial: Annotated[int | None, typer.Option(help="This trial in place of the best.")] = None,
    yaml: Annotated[
        bool, typer.Option("--yaml", help="Print only the settings, for gqasearch search --config; measure nothing.")
    ] = False,
    held_out: Annotated[bool, typer.Option(help="Measure on the held-out text too, once.")] = True,
    json_: Json = False,
) -> None:
    """The best trial, or the Pareto front: settings, objectives, and figures on the held-out text.

    Trials are compared on validation text, on which the best of many looks better than it is; what to report is the
    held-out text.

    Example: gqasearch sweep best rates.yaml --yaml > best.yaml; gqasearch search --config best.yaml
    """
    with clear_errors():
        quiet_libraries(0)
        from gqasearch.errors import UserError
        from gqasearch.sweeps.best import best_trials
        from gqasearch.sweeps.study import load
        from gqasearch.sweeps.sweep_report import write_sweep_report

        _, place = locate(file, storage, study_name, output_dir)
        study, sweep = load(place)
        found = best_trials(study, sweep, trial)
        if yaml:
            if len(found) > 1:
                numbers = ", ".join(str(one.number) for one in found)
                raise UserError(f"no trial is best in all objectives; choose with --trial one of {numbers}")
            typer.echo(f"# trial {found[0].number} of study {place.study_name}\n{found[0].config.to_yaml()}", nl=False)
            return
        figures = _measure(found, place) if held_out else [{} for _ in found]
        if held_out:
            write_sweep_report(study, sweep, place)
        if json_:
            print_json({"best": [_record(one, held) for one, held in zip(found, figures, strict=True)]})
        else:
            _print(found, figures)


def _measure(found: list[Best], place: Any) -> list[dict[str, float]]:
    from rich.console import Console

    from gqasearch.reporting import SearchProgress
    from gqasearch.steps import ProcessCache
    from gqasearch.sweeps.best import held_out, held_out_figures

    cache = ProcessCache()
    with SearchProgress(Console(stderr=True)) as progress:
        return [held_out_figures(held_out(one, place, cache, progress)) for one in found]


def _record(one: Best, held: dict[str, float]) -> dict[str, Any]:
    return {
        "trial": one.number,
        "host": one.host,
        "folder": str(one.folder),
        "validation": one.values,
        "held_out": held,
        "parameters": one.parameters,
        "config": one.config.model_dump(mode="json"),
    }


def _print(found: list[Best], figures: list[dict[str, float]]) -> None:
    from rich import box
    from rich.table import Table

    console = output_console()
    table = Table("trial", *found[0].values, *(f"held-out {name}" for name in figures[0]), box=box.SIMPLE_HEAD)
    for one, held in zip(found, figures, strict=True):
        table.add_row(str(one.number), *(f"{value:.5g}" for value in (*one.values.values(), *held.values())))
    console.print(table)
    for one in found:
        words = ", ".join(f"{name} = {value}" for name, value in one.parameters.items())
        console.print(f"trial {one.number}: {words}", markup=False, highlight=False)
        console.print(f"  on {one.host}: {one.folder}", markup=False, highlight=False, soft_wrap=True)
