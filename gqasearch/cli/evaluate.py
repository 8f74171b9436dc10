"""``gqasearch evaluate``: measure a converted checkpoint against its parent, on text or on tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gqasearch.cli.figures_table import figures_table
from gqasearch.cli.generated_tables import on_generation
from gqasearch.cli.messages import clear_errors, output_console, print_json, quiet_libraries
from gqasearch.cli.rounded_tables import show_rounded

if TYPE_CHECKING:
    from gqasearch.config import RunConfig


def evaluate(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A converted checkpoint, the folder of a run, or a GGUF file; with --kv-bits also a model that was "
            "not converted."
        ),
    ],
    parent: Annotated[
        str | None, typer.Option(help="The unconverted model. [default: what the run or the checkpoint names]")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Hub revision of the parent.")] = None,
    calibration_text: Annotated[
        str | None,
        typer.Option(
            help="Text whose held-out part is measured on: 'embedded', a file or a folder. [default: the run's, or "
            "embedded]"
        ),
    ] = None,
    evaluation_text: Annotated[str | None, typer.Option(help="Other text to measure on, whole.")] = None,
    evaluation_tokens: Annotated[
        int | None, typer.Option(help="Held-out tokens to measure on. [default: the run's, or 65536]")
    ] = None,
    block_length: Annotated[int | None, typer.Option(help="Tokens per block. [default: the run's, or 256]")] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Tasks instead of text, separated by commas: gqasearch-identifiers, which needs nothing else, or any "
            "of lm-eval's (pip install 'gqasearch[eval]')."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Items of every task, the first ones. [default: all]")
    ] = None,
    kv_bits: Annotated[
        str | None,
        typer.Option(
            help="Also with the KV cache rounded so, several separated by commas: bits (8, 4, 3, 2; k8v4), or as an "
            "engine rounds (q8_0, q8_0/q4_0 for keys/values, fp8, kivi4, ...; gqasearch ls formats)."
        ),
    ] = None,
    generate: Annotated[
        bool,
        typer.Option(
            "--generate",
            help="Instead of figures over all text: what both models write, side by side, perplexity by position, and "
            "keys found again in long contexts; of a run also in its report.html.",
        ),
    ] = False,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="With --generate: go on from these words. Repeatable. [default: held-out text]"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of what --generate samples. [default: the run's, or 0]")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. [default: the run's, or cpu]")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the modelling file that lies in the checkpoint's folder.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Perplexity, KL to the parent, KV bytes per token, parameters, on held-out text; or accuracy on tasks.

    Of a run it takes the parent, the held-out part of its own text, the block length and the dtype from config.yaml.

    Example: gqasearch evaluate runs/NAME

    Example: gqasearch evaluate converted --parent embedded

    Example: gqasearch evaluate runs/NAME --kv-bits 8,k8v4,q4_0

    Example: gqasearch evaluate runs/NAME --generate

    Example: gqasearch evaluate converted --tasks gqasearch-identifiers,arc_easy --limit 200
    """
    with clear_errors():
        quiet_libraries(0)
        from gqasearch.errors import UserError
        from gqasearch.run.origin import checkpoint_folder, evaluation_config

        texts = {
            "calibration_text": calibration_text,
            "evaluation_text": evaluation_text,
            "evaluation_tokens": evaluation_tokens,
            "block_length": block_length,
        }
        given = {"model": parent, "revision": revision, "device": device, "seed": seed, **texts}
        if generate:
            _refuse({"tasks": tasks, "limit": limit, "kv_bits": kv_bits}, "with --generate")
            on_generation(checkpoint, given, prompt or [], trust_remote_code, json_)
            return
        _refuse({"prompt": prompt or None, "seed": seed}, "without --generate")
        if kv_bits is not None:
            _refuse({"tasks": tasks, "limit": limit}, "with --kv-bits, which measures on text")
            _rounded(checkpoint, given, kv_bits, trust_remote_code, json_)
            return
        folder = checkpoint_folder(checkpoint)
        settings = evaluation_config(checkpoint, given)
        if tasks is None:
            if limit is not None:
                raise UserError("--limit is the number of items of --tasks; for text give --evaluation-tokens")
            _on_text(settings, folder, trust_remote_code, json_)
        else:
            _refuse(texts, "with --tasks, which bring their own text")
            _on_tasks(settings, folder, _names(tasks), limit, trust_remote_code, json_)


def _refuse(given: dict[str, Any], why: str) -> None:
    from gqasearch.errors import UserError

    odd = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if odd:
        raise UserError(f"{', '.join(odd)}: no effect {why}")


def _names(tasks: str) -> list[str]:
    from gqasearch.errors import UserError

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise UserError("--tasks is empty; give names separated by commas")
    return list(dict.fromkeys(names))


def _on_text(settings: RunConfig, folder: Path, trust: bool, json_: bool) -> None:
    from rich.console import Console

    from gqasearch.reporting import SearchProgress
    from gqasearch.steps import Workspace
    from gqasearch.steps.measure import CONVERTED, checkpoint_subject, measure
    from gqasearch.steps.metric_records import DISTANCES, distance_of

    with SearchProgress(Console(stderr=True), quiet=json_) as progress:
        work = Workspace(settings, progress)
        subjects = {CONVERTED: checkpoint_subject(work, folder, trust_remote_code=trust)}
        metrics = measure(work, subjects, is_run=False)
    own, mine = metrics["parent"], metrics["results"][CONVERTED]
    if json_:
        _print_metrics(metrics)
        return
    output_console().print(figures_table({"parent": own, "converted": mine}))
    distance = distance_of(mine)
    (low, high), blocks = mine[f"{distance}_interval"], len(mine[f"{distance}_blocks"])
    typer.echo(f"{DISTANCES[distance]}: 95% interval {low:.4g} to {high:.4g} over {blocks} blocks")
    _tell_text(metrics)


def _print_metrics(metrics: dict[str, Any]) -> None:
    from gqasearch.steps.metric_records import distance_of

    for record in (metrics["parent"], *metrics["results"].values(), *metrics.get("rounded", ())):
        record.pop(f"{distance_of(record)}_blocks")
    metrics["texts"] = metrics["texts"]["reported"]
    print_json(metrics)


def _tell_text(metrics: dict[str, Any]) -> None:
    typer.echo(f"on {metrics['texts']['reported']['source'].partition(': ')[0]}")
    typer.echo(f"{metrics['targets']} targets, blocks of {metrics['block_length']} tokens. {metrics['convention']}")


def _rounded(checkpoint: Path, given: dict[str, Any], kv_bits: str, trust: bool, json_: bool) -> None:
    """A checkpoint that was made from nothing else is measured by itself, as its own parent."""
    from rich.console import Console

    from gqasearch.config import build_config
    from gqasearch.reporting import SearchProgress
    from gqasearch.rounding import parse_formats
    from gqasearch.run.origin import checkpoint_folder, evaluation_config, origin_of
    from gqasearch.steps import Workspace
    from gqasearch.steps.rounded_caches import measure_rounded

    formats = parse_formats(kv_bits)
    if given["model"] is None and origin_of(checkpoint) is None:
        named = {name: value for name, value in given.items() if value is not None}
        settings, folder = build_config({**named, "model": str(checkpoint)}), None
    else:
        settings, folder = evaluation_config(checkpoint, given), checkpoint_folder(checkpoint)
    with SearchProgress(Console(stderr=True), quiet=json_) as progress:
        metrics = measure_rounded(Workspace(settings, progress), folder, formats, trust_remote_code=trust)
    if json_:
        _print_metrics(metrics)
    else:
        show_rounded(metrics)
        _tell_text(metrics)


def _on_tasks(settings: RunConfig, folder: Path, tasks: list[str], limit: int | None, trust: bool, json_: bool) -> None:
    from rich.console import Console

    from gqasearch.reporting import SearchProgress
    from gqasearch.steps import Workspace
    from gqasearch.steps.tasks import measure_tasks

    with SearchProgress(Console(stderr=True), quiet=json_) as progress:
        found = measure_tasks(Workspace(settings, progress), folder, tasks, limit=limit, trust_remote_code=trust)
    if json_:
        print_json(found)
    else:
        _show_scores(found)


def _show_scores(found: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("task", "metric", "items", "parent", "converted")
    for score in found["scores"]:
        figures = [_with_error(score[name], score[f"{name}_stderr"]) for name in ("parent", "converted")]
        items = "" if score["items"] is None else f"{score['items']:,}"
        table.add_row(*map(Text, (score["task"], score["metric"], items, *figures)))
    output_console().print(table)
    typer.echo("±: standard error over items; both models answer the same ones")
    if found["lm_eval"]:
        typer.echo(f"by lm-eval {found['lm_eval']}, but for tasks named gqasearch-...")


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"
