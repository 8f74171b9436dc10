"""``gqasearch evaluate``: measure a converted checkpoint against its parent, on text or on tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gqasearch.cli.messages import clear_errors, output_console, print_json, quiet_libraries

if TYPE_CHECKING:
    from gqasearch.run import RunConfig


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A converted checkpoint, the folder of a run, or a GGUF file.")],
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

    Example: gqasearch evaluate converted --tasks gqasearch-identifiers,arc_easy --limit 200
    """
    with clear_errors():
        quiet_libraries(0)
        from gqasearch.errors import UserError
        from gqasearch.run.origin import checkpoint_folder, evaluation_config

        folder = checkpoint_folder(checkpoint)
        texts = {
            "calibration_text": calibration_text,
            "evaluation_text": evaluation_text,
            "evaluation_tokens": evaluation_tokens,
            "block_length": block_length,
        }
        told = folder if checkpoint.is_file() else checkpoint  # a GGUF file tells nothing of its origin
        settings = evaluation_config(told, {"model": parent, "revision": revision, "device": device, **texts})
        if tasks is None:
            if limit is not None:
                raise UserError("--limit is the number of items of --tasks; for text give --evaluation-tokens")
            _on_text(settings, folder, trust_remote_code, json_)
        else:
            _refuse_texts(texts)
            _on_tasks(settings, folder, _names(tasks), limit, trust_remote_code, json_)


def _refuse_texts(given: dict[str, Any]) -> None:
    from gqasearch.errors import UserError

    odd = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if odd:
        raise UserError(f"{', '.join(odd)}: no effect with --tasks, which bring their own text")


def _names(tasks: str) -> list[str]:
    from gqasearch.errors import UserError

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise UserError("--tasks is empty; give names separated by commas")
    return list(dict.fromkeys(names))


def _on_text(settings: RunConfig, folder: Path, trust: bool, json_: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from gqasearch.reporting import SearchProgress
    from gqasearch.run import Workspace
    from gqasearch.run.evaluate import CONVERTED, checkpoint_subject, measure

    with SearchProgress(Console(stderr=True), quiet=json_) as progress:
        work = Workspace(settings, progress)
        subjects = {CONVERTED: checkpoint_subject(work, folder, trust_remote_code=trust)}
        metrics = measure(work, subjects, is_run=False)
    own, mine = metrics["parent"], metrics["results"][CONVERTED]
    if json_:
        for record in (own, mine):
            record.pop("kl_blocks")
        metrics["texts"] = metrics["texts"]["reported"]
        print_json(metrics)
        return
    table = Table("", "parent", "converted")
    for name in ("perplexity", "kl", "bits_per_byte", "kv_bytes_per_token", "parameters"):
        table.add_row(name.replace("_", " "), f"{own[name]:.6g}", f"{mine[name]:.6g}")
    for kind, cosine in mine.get("embedding_cosine", {}).items():
        table.add_row(f"cosine of sentence embeddings, {kind} text", "1", f"{cosine:.6g}")
    output_console().print(table)
    low, high = mine["kl_interval"]
    typer.echo(f"KL: 95% interval {low:.4g} to {high:.4g} over {len(mine['kl_blocks'])} blocks")
    typer.echo(f"on {metrics['texts']['reported']['source'].partition(': ')[0]}")
    typer.echo(f"{metrics['targets']} targets, blocks of {metrics['block_length']} tokens. {metrics['convention']}")


def _on_tasks(settings: RunConfig, folder: Path, tasks: list[str], limit: int | None, trust: bool, json_: bool) -> None:
    from rich.console import Console

    from gqasearch.reporting import SearchProgress
    from gqasearch.run import Workspace
    from gqasearch.run.tasks import measure_tasks

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
