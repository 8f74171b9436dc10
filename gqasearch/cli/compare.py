"""``gqasearch compare``: which fitness predicts quality, and which gives the better model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gqasearch.cli.config_file import COMPARISON, read_config
from gqasearch.cli.messages import clear_errors, output_console, print_json, quiet_libraries

if TYPE_CHECKING:
    from gqasearch.comparison import ComparisonConfig
    from gqasearch.reporting.comparison import ComparisonData


# Sections of a comparison with parameters by name, and what a run calls such parameters in --set.
PARAMETERS = {"fitness_parameters": "fitness", "method_parameters": "method"}


def compare(
    fitness: Annotated[list[str] | None, typer.Option(help="Repeatable. [default: all for models with a head]")] = None,
    merge: Annotated[list[str] | None, typer.Option(help="Repeatable. [default: optimal]")] = None,
    kv_ratio: Annotated[list[float] | None, typer.Option(help="Repeatable. [default: 0.5]")] = None,
    method: Annotated[list[str] | None, typer.Option(help="How to search; repeatable. [default: evolution]")] = None,
    seeds: Annotated[int | None, typer.Option(help="Searches of every kind; 0 ranks only. [default: 3]")] = None,
    evaluations: Annotated[int | None, typer.Option(help="Most evaluations of a search. [default: 500]")] = None,
    seconds: Annotated[float | None, typer.Option(help="Most seconds instead; not reproducible.")] = None,
    sample: Annotated[int | None, typer.Option(help="Random groupings to rank; 0: none. [default: 60]")] = None,
    top: Annotated[int | None, typer.Option(help="Best groupings of every search to rank. [default: 4]")] = None,
    sample_refine: Annotated[
        str | None,
        typer.Option(help="Refinement of ranked models. [default: as the runs'; outputs where that is descent]"),
    ] = None,
    sample_tokens: Annotated[int | None, typer.Option(help="Held-out tokens to rank on. [default: 16384]")] = None,
    sample_seed: Annotated[int | None, typer.Option(help="Seed of the random groupings. [default: 0]")] = None,
    model: Annotated[str | None, typer.Option(help="As in search. [default: embedded]")] = None,
    refine: Annotated[str | None, typer.Option(help="As in search: what is fitted after the merge.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting of every run, key=value, or a parameter of what is compared: "
            "fitness_parameters.NAME.KEY=value, method_parameters.NAME.KEY=value. Repeatable.",
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; every flag overrides it.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Folder. [default: runs/compare-NAME]")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print both tables as JSON.")] = False,
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more; twice: libraries too.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors and --json.")] = False,
) -> None:
    """Fitness functions side by side: does each rank as quality does, does optimising it give better models?

    Both on held-out text. Every winner is a run folder. The same command on the same folder goes on where it stopped.

    Example: gqasearch compare --fitness merge-error --fitness weight-sharing-error --kv-ratio 0.25 --refine none
    """
    with clear_errors(resumable=True):
        flags = {
            "fitness": fitness,
            "merges": merge,
            "kv_ratios": kv_ratio,
            "methods": method,
            "seeds": seeds,
            "evaluations": evaluations,
            "seconds": seconds,
            "sample": sample,
            "top": top,
            "sample_refine": sample_refine,
            "sample_tokens": sample_tokens,
            "sample_seed": sample_seed,
        }
        settings = _resolve(config, flags, {"model": model, "refine": refine}, set_ or [])
        quiet_libraries(verbose)
        if not quiet:
            _warn_of_broken(settings)
        _compare(settings, output_dir or _default_dir(settings), json_, quiet)


def _resolve(file: Path | None, flags: dict[str, Any], run: dict[str, Any], settings: list[str]) -> ComparisonConfig:
    """Defaults, then the file, then flags; ``--set`` last."""
    from gqasearch.comparison import build_comparison
    from gqasearch.config import apply_settings
    from gqasearch.errors import UserError

    values = read_config(file, COMPARISON) if file else {}
    given = {name: value for name, value in flags.items() if value is not None and value != []}
    if {"evaluations", "seconds"} & given.keys():  # a flag replaces the file's budget
        values = {name: value for name, value in values.items() if name not in ("evaluations", "seconds")}
    of_runs = values.get("run") or {}
    if not isinstance(of_runs, dict):
        raise UserError(f"run must be a mapping of settings, got {of_runs!r}")
    of_runs = {**of_runs, **{name: value for name, value in run.items() if value is not None}}
    named = [one for one in settings if one.partition(".")[0] in PARAMETERS]
    for one in named:
        section, name, setting = _named_parameter(one)
        parsed = apply_settings({}, [f"{PARAMETERS[section]}.{setting}"])[section]
        of_section = values.get(section) or {}
        values = {**values, section: {**of_section, name: {**(of_section.get(name) or {}), **parsed}}}
    others = [one for one in settings if one not in named]
    return build_comparison({**values, **given, "run": apply_settings(of_runs, others)})


def _named_parameter(setting: str) -> tuple[str, str, str]:
    """``fitness_parameters.kl.tokens=1024`` in its parts: section, whose parameter it is, ``tokens=1024``."""
    from gqasearch.errors import UserError

    section, name, rest = [*setting.split(".", 2), "", ""][:3]
    if not name or "=" not in rest or "=" in name:
        raise UserError(f"--set {setting}: give {section}.NAME.PARAMETER=VALUE")
    return section, name, rest


def _warn_of_broken(settings: ComparisonConfig) -> None:
    """Where a comparison has all installed fitness functions: which it has not, and why."""
    from gqasearch.fitness import available_fitness, broken_fitness

    if set(settings.fitness) >= {name for name, one in available_fitness().items() if "next-token" in one.objectives}:
        for why in broken_fitness().values():
            typer.echo(f"warning: left out: {why}", err=True)


def _default_dir(settings: ComparisonConfig) -> Path:
    """``runs/compare-MODEL-RATIOS``."""
    model = str(settings.run.get("model", "embedded"))
    name = model if model == "embedded" else Path(model).name
    return Path("runs") / "-".join(["compare", name, *(f"{ratio:g}" for ratio in settings.kv_ratios), *settings.merges])


def _compare(settings: ComparisonConfig, output_dir: Path, json_: bool, quiet: bool) -> None:
    from rich.console import Console

    from gqasearch.comparison import ComparisonFolder, compare
    from gqasearch.reporting import SearchProgress

    messages = Console(stderr=True)

    def note(words: str) -> None:
        if not (quiet or json_):
            messages.print(f"note: {words}", markup=False, highlight=False, soft_wrap=True)

    with SearchProgress(messages, quiet=quiet or json_) as progress:
        data = compare(settings, output_dir, progress, note)
    folder = ComparisonFolder(output_dir)
    if json_:
        tables = {"ranking": data.ranking, "winners": data.winners}
        print_json({"output_dir": str(output_dir), **{name: _records(frame) for name, frame in tables.items()}})
    elif not quiet:
        show(data)
        output_console().print(f"report  {folder.report}", markup=False, highlight=False)


def _records(frame: Any) -> list[dict[str, Any]]:
    """Rows with None for NaN, which JSON has not."""
    import json

    rows: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return rows


def show(data: ComparisonData) -> None:
    """Print both answers."""
    from gqasearch.reporting.comparison import ranking_tables, winner_tables
    from gqasearch.reporting.text_table import rich_table

    console = output_console()
    questions = (
        ("Does the fitness rank candidates as quality does?", ranking_tables(data.ranking)),
        ("Does optimising it give better models?", winner_tables(data.winners)),
    )
    for question, tables in questions:
        if tables:
            console.print(f"\n{question}\n", style="bold", markup=False, highlight=False)
            for table in tables:
                console.print(rich_table(table))
    for line in (*data.notes, *data.rules):
        console.print(line, markup=False, highlight=False)
