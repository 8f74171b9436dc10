"""``gqasearch export``: a grouping in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gqasearch.cli.messages import clear_errors

SCHEMA = "schema"


def export(
    grouping: Annotated[Path | None, typer.Argument(help="grouping.json, or a run folder. None for schema.")] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="labels-csv, head-map, head-clusters, kv-heads-per-layer, block-configs, npz, frame-csv, frame-json; "
            "schema: the JSON Schema of grouping.json itself.",
        ),
    ] = "labels-csv",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write. [default: stdout]")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Write a grouping as labels, head map, clusters, per-layer KV head counts, NumPy arrays, or a table for pandas.

    gqasearch import reads labels-csv, head-map, head-clusters and npz again.

    Example: gqasearch export runs/demo/grouping.json --format head-map
    """
    with clear_errors():
        import sys

        from gqasearch.files import write_file

        data = _data(grouping, form)
        if output is None:
            sys.stdout.buffer.write(data)
        else:
            write_file(output, data, overwrite=overwrite)
            typer.echo(f"{output}: {form}, {len(data):,} bytes")


def _data(grouping: Path | None, form: str) -> bytes:
    from gqasearch.errors import UserError, unknown_name
    from gqasearch.exports import EXPORTS
    from gqasearch.exports import export as convert
    from gqasearch.grouping_document import read_grouping, schema_text

    if form == SCHEMA:
        return schema_text().encode()
    if form not in EXPORTS:
        raise unknown_name("export format", form, [*EXPORTS, SCHEMA])
    if grouping is None:
        raise UserError(f"export --format {form} needs a grouping: a grouping.json, or a run folder")
    return convert(read_grouping(grouping / "grouping.json" if grouping.is_dir() else grouping), form)
