"""``gqasearch materialize``: a checkpoint from a grouping JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gqasearch.cli.messages import clear_errors, print_json, quiet_libraries


def materialize(
    grouping: Annotated[Path, typer.Argument(help="grouping.json, from a search or another tool.")],
    output_dir: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    model: Annotated[str, typer.Option(help="The model that the grouping belongs to.")] = "embedded",
    revision: Annotated[str | None, typer.Option(help="Hub revision of the model.")] = None,
    merge: Annotated[str | None, typer.Option(help="Merge to use. [default: the grouping's]")] = None,
    refine: Annotated[
        str | None, typer.Option(help="Refinement to use. [default: the grouping's, or what --merge goes with]")
    ] = None,
    calibration_text: Annotated[str, typer.Option(help="Text, for merges that need statistics.")] = "embedded",
    calibration_tokens: Annotated[
        int | None, typer.Option(help="Tokens the statistics are gathered on. [default: as the grouping was searched]")
    ] = None,
    block_length: Annotated[int, typer.Option(help="Tokens per block.")] = 256,
    layout: Annotated[
        str, typer.Option(help="Form of the checkpoint: auto, stock (no remote code), deci, ragged.")
    ] = "auto",
    target: Annotated[
        str | None,
        typer.Option(help="Engine that has to load it: transformers, vllm, llama.cpp, ctranslate2, any (all of them)."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors and --json.")] = False,
) -> None:
    """Write a GQA checkpoint: one that stock tools load, or for unequal group counts one with its own code.

    Example: gqasearch materialize runs/demo/grouping.json --output-dir converted
    """
    with clear_errors():
        quiet_libraries(0)
        from dataclasses import replace

        from gqasearch.grouping_document import MergeRecord, RefinementRecord, read_grouping
        from gqasearch.run import Workspace, build_config
        from gqasearch.run import materialize as write

        document = read_grouping(grouping)
        if merge is not None:
            document = replace(document, merge=MergeRecord(merge), refinement=None)
        settings: dict[str, object] = {
            "model": model,
            "revision": revision,
            "merge": merge or "optimal",
            "refine": refine,
            "calibration_text": calibration_text,
            "block_length": block_length,
            "layout": layout,
            "target": target,
        }
        searched_on = None if document.calibration is None else document.calibration.tokens
        tokens = searched_on if calibration_tokens is None else calibration_tokens
        if tokens is not None:
            settings["calibration_tokens"] = tokens
        work = Workspace(build_config(settings))
        if merge is not None or refine is not None:
            chosen = work.refinement
            document = replace(document, refinement=RefinementRecord(chosen.name, chosen.parameters()))
        written = write(work, document, output_dir)
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
            typer.echo(f"{output_dir}: {written.layout.name}. {written.layout.reason}\n{written.check}")
