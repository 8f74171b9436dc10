"""``gqasearch validate``: check a grouping JSON, and that it belongs to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gqasearch.cli.config_file import refuse_yaml
from gqasearch.cli.messages import clear_errors, print_json, quiet_libraries


def validate(
    grouping: Annotated[Path, typer.Argument(help="grouping.json to check.")],
    model: Annotated[str | None, typer.Option(help="Also check that it fits this model.")] = None,
    allow_other_weights: Annotated[bool, typer.Option(help="Accept a model of the same shape.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check schema, partitions and totals of a grouping; with --model also that it fits.

    Example: gqasearch validate runs/demo/grouping.json --model embedded
    """
    with clear_errors():
        from gqasearch.grouping_document import read_grouping
        from gqasearch.grouping_fit import check_fits

        refuse_yaml(grouping)
        document = read_grouping(grouping)
        if model is not None:
            quiet_libraries(0)
            from gqasearch.models import resolve_model

            source = resolve_model(model)
            check_fits(document, source.geometry, None if allow_other_weights else source.fingerprint)
        found = document.partitions
        if json_:
            print_json({"valid": True, "kv_heads_total": found.kv_heads_total, "kv_ratio": document.kv_ratio})
        else:
            typer.echo(
                f"{grouping}: valid; {len(found)} layers of {found.num_heads} heads, "
                f"{found.kv_heads_total} KV heads, ratio {document.kv_ratio:.4g}"
            )
