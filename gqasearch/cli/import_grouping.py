"""``gqasearch import``: a grouping that another tool found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gqasearch.cli.messages import clear_errors, print_json, quiet_libraries


def import_grouping(
    source: Annotated[Path, typer.Argument(help="File, or folder of files, that the other tool wrote.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="labels-csv, head-map, npz (as export writes them), head-clusters (CHAI), qcqa (its folder of CSVs).",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="grouping.json to write.")],
    model: Annotated[str, typer.Option(help="The model that the grouping belongs to.")] = "embedded",
    revision: Annotated[str | None, typer.Option(help="Hub revision of the model.")] = None,
    kv_heads: Annotated[
        int | None, typer.Option(help="qcqa: take the best candidate with so many groups in every layer.")
    ] = None,
    row: Annotated[
        int | None, typer.Option(help="qcqa: group the layers that this row of algo2_result.csv does.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors and --json.")] = False,
) -> None:
    """Check a grouping from another tool against its model, and write it as grouping.json.

    It names no merge: materialize takes --merge, or its default.

    Example: gqasearch import clusters.json --format head-clusters --model embedded -o grouping.json
    """
    with clear_errors():
        quiet_libraries(0)
        from gqasearch.exports import import_grouping as read
        from gqasearch.grouping_document import write_grouping
        from gqasearch.models import model_record, resolve_model

        options = {name: value for name, value in (("kv_heads", kv_heads), ("row", row)) if value is not None}
        document = read(source, form, model_record(model, resolve_model(model, revision)), **options)
        write_grouping(output, document, overwrite=overwrite)
        found = document.grouping
        if json_:
            print_json({"output": str(output), "kv_heads_total": found.kv_heads_total, "kv_ratio": found.kv_ratio})
        elif not quiet:
            typer.echo(
                f"{output}: {len(found)} layers of {found.num_heads} heads, {found.kv_heads_total} KV heads, "
                f"ratio {found.kv_ratio:.4g}"
            )
