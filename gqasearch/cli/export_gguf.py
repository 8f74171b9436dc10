"""``gqasearch export-gguf``: a converted checkpoint for llama.cpp, from a GGUF file of its parent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gqasearch.cli.messages import clear_errors, print_json, quiet_libraries


def export_gguf(
    parent: Annotated[Path, typer.Argument(help="GGUF file of the unconverted model, from llama.cpp's converter.")],
    checkpoint: Annotated[Path, typer.Option(help="The converted checkpoint, or a run folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="GGUF file to write.")],
    least: Annotated[
        str, typer.Option(help="Attention that the conversion changed gets at least this type: Q4_0, Q8_0 or F16.")
    ] = "Q8_0",
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors and --json.")] = False,
) -> None:
    """Write a GGUF file of a converted checkpoint: the parent's, with other attention tensors and head counts.

    Llama, Mistral, Qwen2 and Qwen3, layouts stock and deci. All else, tokenizer included, is copied byte for byte.
    Attention keeps the parent's type if it is F32, F16 or BF16. Of a quantised parent what was changed is rounded a
    second time, and so gets at least Q8_0. Needs pip install 'gqasearch[gguf]'.

    Example: gqasearch export-gguf parent.gguf --checkpoint converted --output converted.gguf
    """
    with clear_errors():
        quiet_libraries(0)
        from dataclasses import asdict

        from gqasearch.checkpoints import export_gguf as write
        from gqasearch.errors import UserError

        folder = checkpoint / "model" if (checkpoint / "model").is_dir() else checkpoint
        if not folder.is_dir():
            raise UserError(f"{checkpoint}: no such checkpoint folder")
        written = write(parent, folder, output, overwrite=overwrite, least=least)
        if json_:
            print_json({"output": str(output), **asdict(written)})
        elif not quiet:
            counts = written.kv_heads_per_layer
            heads = f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
            typer.echo(
                f"{output}: architecture {written.architecture}, {heads} KV heads; attention in "
                f"{_counted(written.replaced)}, {written.copied} other tensors copied"
            )
            if written.widened:
                typer.echo(f"in place of {_counted(written.widened)}, as it is rounded a second time")


def _counted(types: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count} tensors)" for name, count in types.items())
