"""``gqasearch search``: the whole main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gqasearch.cli.messages import clear_errors, output_console, print_json, quiet_libraries
from gqasearch.cli.rounded_tables import show_decision, show_rounded
from gqasearch.cli.run_options import resolve_config, with_config_flags
from gqasearch.config import RunConfig

if TYPE_CHECKING:
    from gqasearch.run import RunFolder


@with_config_flags
def search(
    output_dir: Annotated[Path | None, typer.Option(help="Run folder. [default: runs/NAME]")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; every flag overrides it.")] = None,
    fitness: Annotated[str | None, typer.Option(help="What to minimise. [default: merge-error]")] = None,
    objective: Annotated[
        list[str] | None, typer.Option(help="Repeat for a Pareto front: fitness names, kv-ratio, kv-bytes.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, or fitness|merge|refine|method.PARAMETER=value. Repeatable."),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(help="Also show the run in tensorboard or wandb (Weights & Biases). Repeatable."),
    ] = None,
    workers: Annotated[
        str, typer.Option(help="Who runs the candidates: a number of processes, ray, or ray://HOST:PORT.")
    ] = "1",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of each worker. [default: the cores, shared out]")
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(min=0, help="GB that a run may take; a larger one is refused. [default: what is free]"),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(help="Refuse what a run would refuse, show what it would do; write nothing (--join: the cache)."),
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more; twice: libraries too.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors and --json.")] = False,
    **flags: Any,
) -> None:
    """Search a grouping, write the converted checkpoint, measure it, report.

    With no option: the embedded model at half its KV heads. The same command on the same folder resumes.

    Example: gqasearch search --kv-ratio 0.25 --fitness merge-error --set method.population=64

    On four processes, to the same bits: gqasearch search --method staged --workers 4 --threads 1
    """
    with clear_errors(resumable=True):
        settings = resolve_config(config, flags, fitness, objective or [], set_ or [])
        quiet_libraries(verbose)
        most = None if memory is None else round(memory * 1e9)
        if dry_run:
            _dry_run(settings, output_dir, workers, threads, most, track or [], json_, quiet)
            return
        _search(settings, output_dir, workers, threads, most, track or [], json_, verbose, quiet)


def _dry_run(
    settings: RunConfig,
    output_dir: Path | None,
    workers: str,
    threads: int | None,
    memory: int | None,
    track: list[str],
    json_: bool,
    quiet: bool,
) -> None:
    from gqasearch.parallel import parse_workers
    from gqasearch.run import RunFolder, default_output_dir
    from gqasearch.run.dry_run import dry_run
    from gqasearch.steps import Workspace
    from gqasearch.tracking import make_tracker

    for name in track:
        make_tracker(name)
    work, folder = Workspace(settings), RunFolder(output_dir or default_output_dir(settings))
    facts = dry_run(work, folder, parse_workers(workers), threads, memory=memory)
    if json_:
        print_json({"output_dir": str(folder.path), "config": work.config.model_dump(mode="json"), **facts})
    elif not quiet:
        typer.echo(f"# would run in {folder.path}")
        for what, words in facts.items():
            for line in [words] if isinstance(words, str) else words:
                typer.echo(f"# {what}: {line}")
        typer.echo(work.config.to_yaml(), nl=False)


def _search(
    settings: RunConfig,
    output_dir: Path | None,
    workers: str,
    threads: int | None,
    memory: int | None,
    track: list[str],
    json_: bool,
    verbose: int,
    quiet: bool,
) -> None:
    from rich.console import Console

    from gqasearch.reporting import SearchProgress
    from gqasearch.run import default_output_dir, run
    from gqasearch.tracking import tracked

    messages = Console(stderr=True)

    def warn(words: str) -> None:
        messages.print(f"warning: {words}", markup=False, highlight=False, soft_wrap=True)

    def note(words: str) -> None:
        if not (quiet or json_):
            messages.print(f"note: {words}", markup=False, highlight=False, soft_wrap=True)

    with tracked(track, warn) as trackers, SearchProgress(messages, quiet=quiet or json_) as progress:
        where = output_dir or default_output_dir(settings)
        folder = run(
            *(settings, where, progress),
            listeners=trackers,
            workers=workers,
            threads=threads,
            memory=memory,
            tell=note,
        )
    if json_:
        print_json(_summary(folder.path, folder.metrics))
    elif not quiet:
        _show(folder, verbose)
    _require_checkpoint(settings, folder)


def _show(folder: RunFolder, verbose: int) -> None:
    """Figures, warnings and files of a finished run; ``verbose``: its settings, too."""
    from gqasearch.files import read_json
    from gqasearch.grouping_document import read_grouping
    from gqasearch.reporting.tables import results_table
    from gqasearch.run import report_data
    from gqasearch.steps.certify import certificate_words

    data, console = report_data([folder]), output_console()
    console.print(results_table(data))
    metrics = read_json(folder.metrics)
    if "decision" in metrics:
        show_decision(metrics["decision"])
    if "rounded" in metrics:
        show_rounded(metrics)
    if (certificate := certificate_words(read_grouping(folder.grouping))) is not None:
        console.print(f"certificate: {certificate}", highlight=False)
    for warning in data.warnings:
        console.print(f"warning: {warning}", markup=False)
    writes = f"gqasearch materialize {folder.path} --output-dir DIR writes one"
    none = "none: see below" if folder.read_config().materialize else f"none; {writes}"
    for what, path in (("grouping", folder.grouping), ("checkpoint", folder.model), ("report", folder.report)):
        console.print(f"{what:>10}  {path if path.exists() else none}", markup=False)
    if (words := _layout_words(folder.metrics)) is not None:
        console.print(words, markup=False, highlight=False)
    if verbose:
        console.print(folder.settings().to_yaml(), markup=False, highlight=False, soft_wrap=True, end="")


def _require_checkpoint(settings: RunConfig, folder: RunFolder) -> None:
    """Raise ``UserError`` where a checkpoint was asked for and there is none."""
    from gqasearch.errors import UserError

    if settings.materialize and not folder.model.is_dir():
        words = _layout_words(folder.metrics) or "no checkpoint"
        raise UserError(
            f"{words.rstrip('.')}. The search is done: gqasearch materialize {folder.path} --layout auto --output-dir "
            "MODEL writes one in another layout, if the grouping has any"
        )


def _layout_words(metrics: Path) -> str | None:
    """Which form the checkpoint has and why, or why there is none; None where none was wanted."""
    from gqasearch.files import read_json

    made = read_json(metrics).get("checkpoint")  # runs of older versions have no such record
    if made is None:
        return None
    return f"layout {made['layout']}: {made['reason']}" if made["layout"] else f"no checkpoint: {made['reason']}"


def _summary(path: Path, metrics: Path) -> dict[str, Any]:
    from gqasearch.files import read_json
    from gqasearch.steps.metric_records import distance_of

    record = read_json(metrics)
    for result in (record["parent"], *record["results"].values()):
        result.pop(f"{distance_of(result)}_blocks")
    return {"output_dir": str(path), **record}
