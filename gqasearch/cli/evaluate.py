"""``gqasearch evaluate``: measure a converted checkpoint against its parent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gqasearch.cli.messages import clear_errors, output_console, print_json, quiet_libraries


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A converted checkpoint, or a run folder.")],
    parent: Annotated[str, typer.Option(help="The unconverted model.")] = "embedded",
    calibration_text: Annotated[
        str, typer.Option(help="Text whose held-out part is measured on: 'embedded', a file or a folder.")
    ] = "embedded",
    evaluation_text: Annotated[str | None, typer.Option(help="Other text to measure on, whole.")] = None,
    evaluation_tokens: Annotated[int, typer.Option(help="Held-out tokens to measure on.")] = 65536,
    block_length: Annotated[int, typer.Option(help="Tokens per block.")] = 256,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the modelling file that lies in the checkpoint's folder.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Perplexity, KL to the parent, KV bytes per token, parameters, on held-out text.

    Example: gqasearch evaluate converted --parent embedded
    """
    with clear_errors():
        quiet_libraries(0)
        from rich.table import Table

        from gqasearch.errors import UserError
        from gqasearch.run import RunFolder, Workspace, build_config
        from gqasearch.run.evaluate import CONVERTED, checkpoint_subject, measure

        folder = RunFolder(checkpoint).model if (checkpoint / "model").is_dir() else checkpoint
        if not folder.is_dir():
            raise UserError(f"{checkpoint}: no such checkpoint folder")
        settings = {
            "model": parent,
            "calibration_text": calibration_text,
            "evaluation_text": evaluation_text,
            "evaluation_tokens": evaluation_tokens,
            "block_length": block_length,
            "device": device,
        }
        work = Workspace(build_config(settings))
        subject = checkpoint_subject(work, folder, trust_remote_code=trust_remote_code)
        metrics = measure(work, {CONVERTED: subject})
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
        output_console().print(table)
        low, high = mine["kl_interval"]
        typer.echo(f"KL: 95% interval {low:.4g} to {high:.4g} over {len(mine['kl_blocks'])} blocks")
        typer.echo(f"{metrics['targets']} targets, blocks of {metrics['block_length']} tokens. {metrics['convention']}")
