"""``gqasearch doctor``: what would go wrong with a checkpoint in an engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gqasearch.cli.messages import clear_errors, output_console, print_json, quiet_libraries

if TYPE_CHECKING:
    from gqasearch.doctor import Finding

COLOURS = {"fails": "red", "warning": "yellow", "ok": "green"}


def doctor(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Checkpoint folder, or a run folder.")],
    target: Annotated[
        str,
        typer.Option(
            help="Engine that has to load it: transformers, vllm, llama.cpp, ctranslate2, mlx, onnxruntime-genai, "
            "openvino-genai."
        ),
    ],
    tensor_parallel: Annotated[int, typer.Option(min=1, help="Devices that will share every layer.")] = 1,
    cache: Annotated[
        str | None, typer.Option(help="Format of the KV cache that will be asked for (gqasearch ls formats).")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Say what would go wrong in an engine, before a GPU is paid for: kernels, devices, caches, code, files, fields.

    Loads no weights and runs nothing. Ends with status 1 where something would fail.

    Example: gqasearch doctor runs/demo --target vllm --tensor-parallel 2
    """
    with clear_errors():
        quiet_libraries(0)
        from dataclasses import asdict

        from gqasearch.doctor import ENGINES, Patient, examine
        from gqasearch.errors import UserError, unknown_name

        if target not in ENGINES:
            raise unknown_name("target", target, ENGINES)
        folder = directory / "model" if (directory / "model").is_dir() else directory
        if not folder.is_dir():
            raise UserError(f"{directory}: no such checkpoint folder")
        patient = Patient(folder, target, tensor_parallel, cache)
        found = examine(patient)
        failing = any(finding.severity == "fails" for finding in found)
        if json_:
            told = {"target": target, "version": patient.engine.version, "fails": failing}
            print_json(told | {"findings": [asdict(finding) for finding in found]})
        else:
            _print(found, f"{folder} in {target} ({patient.engine.version})")
        if failing:
            raise typer.Exit(1)


def _print(found: list[Finding], title: str) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=Text(title))
    for column in ("", "check", "found"):
        table.add_column(column, overflow="fold", no_wrap=column != "found")
    for finding in found:
        table.add_row(Text(finding.severity, COLOURS[finding.severity]), finding.check, Text(finding.words))
    output_console().print(table)
