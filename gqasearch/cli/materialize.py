"""``gqasearch materialize``: a checkpoint from a grouping JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gqasearch.cli.messages import clear_errors, print_json, quiet_libraries

if TYPE_CHECKING:
    from gqasearch.checkpoints import Written
    from gqasearch.config import RunConfig
    from gqasearch.grouping_document import CalibrationRecord


def materialize(
    grouping: Annotated[Path, typer.Argument(help="grouping.json, from a search or another tool; or a run folder.")],
    output_dir: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    model: Annotated[
        str | None, typer.Option(help="The model that the grouping belongs to. [default: the one that it names]")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Hub revision of the model.")] = None,
    merge: Annotated[str | None, typer.Option(help="Merge to use. [default: the grouping's]")] = None,
    refine: Annotated[
        str | None, typer.Option(help="Refinement to use. [default: the grouping's, or what --merge goes with]")
    ] = None,
    calibration_text: Annotated[
        str | None, typer.Option(help="Text, for merges that need statistics. [default: the run's, or embedded]")
    ] = None,
    calibration_tokens: Annotated[
        int | None, typer.Option(help="Tokens the statistics are gathered on. [default: as the grouping was searched]")
    ] = None,
    block_length: Annotated[int | None, typer.Option(help="Tokens per block. [default: the run's, or 256]")] = None,
    any_text: Annotated[
        bool, typer.Option("--any-text", help="Fit on this text though the grouping was searched with another.")
    ] = False,
    layout: Annotated[
        str | None,
        typer.Option(
            help="Form of the checkpoint: auto, stock (no code), deci, ragged, mimo, openelm, anymodel [default: run's]"
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Engine that has to load it: transformers, vllm, llama.cpp, ctranslate2, mlx, any (all)."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. [default: the run's, or cpu]")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors and --json.")] = False,
) -> None:
    """Write a GQA checkpoint: one that stock tools load, or for unequal group counts one with its own code.

    Of a run, or a grouping.json that lies in its folder, it takes model, text and all else from the run's config.yaml
    and writes the run's own checkpoint again. A grouping.json alone says which text it was searched with, and another
    is refused where the merge is fitted on text.

    Example: gqasearch materialize runs/demo --output-dir converted
    """
    with clear_errors():
        quiet_libraries(0)
        from gqasearch.run.forecast import size_words
        from gqasearch.run.origin import materialize_config

        given = {
            "model": model,
            "revision": revision,
            "merge": merge,
            "refine": refine,
            "calibration_text": calibration_text,
            "calibration_tokens": calibration_tokens,
            "block_length": block_length,
            "layout": layout,
            "target": target,
            "device": device,
        }
        written, fitted_on = _write(
            materialize_config(grouping, given),
            grouping,
            output_dir,
            merge=merge,
            refine=refine,
            knowingly=any_text or calibration_text is not None,
            show=not (quiet or json_),
        )
        if json_:
            layout_, check = written.layout, written.check
            told = {
                "tokens": check.tokens,
                "text": check.words,
                "difference": check.difference,
                "allowed": check.allowed,
            }
            print_json(
                {"output_dir": str(output_dir), "layout": layout_.name, "reason": layout_.reason, "loaded_back": told}
            )
        elif not quiet:
            size = sum(file.stat().st_size for file in output_dir.rglob("*") if file.is_file())
            typer.echo(f"{output_dir}: {size_words(size)}, layout {written.layout.name}. {written.layout.reason}")
            typer.echo(str(written.check))
            if fitted_on is not None:
                typer.echo(f"fitted on {fitted_on.text}, {fitted_on.tokens:,} tokens")
            typer.echo(f"next: gqasearch evaluate {output_dir}  (how good it is)")
            typer.echo(f"      gqasearch doctor {output_dir} --target vllm  (whether an engine loads it)")


def _write(
    settings: RunConfig,
    grouping: Path,
    output_dir: Path,
    *,
    merge: str | None,
    refine: str | None,
    knowingly: bool,
    show: bool,
) -> tuple[Written, CalibrationRecord | None]:
    """What was written, and the text that was read."""
    from dataclasses import replace

    from rich.console import Console

    from gqasearch.grouping_document import MergeRecord, RefinementRecord, read_grouping
    from gqasearch.reporting import SearchProgress
    from gqasearch.run.origin import grouping_file, with_text_used
    from gqasearch.steps import Workspace
    from gqasearch.steps import materialize as write
    from gqasearch.steps.convert import check_convertible, reads_text
    from gqasearch.steps.search import calibration_record

    document = read_grouping(grouping_file(grouping))
    messages = Console(stderr=True)
    with SearchProgress(messages, quiet=not show) as progress:
        work = Workspace(settings, progress)
        if merge is not None:
            document = replace(document, merge=MergeRecord(merge), refinement=None)
        if merge is not None or refine is not None:
            chosen = work.refinement
            document = replace(document, refinement=RefinementRecord(chosen.name, chosen.parameters()))
        check_convertible(work, document)
        used = calibration_record(work) if reads_text(work, document) else None
        if used is not None:
            length = settings.block_length
            document, warning = with_text_used(document, used, block_length=length, knowingly=knowingly)
            if warning is not None:
                messages.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
        return write(work, document, output_dir), used
