"""``gqasearch ls``: what there is to choose from."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gqasearch.cli.messages import clear_errors, output_console, print_json, quiet_libraries

if TYPE_CHECKING:
    from gqasearch.registry import Registry

Row = dict[str, str]


def ls(
    what: Annotated[
        str, typer.Argument(help="fitness, merges, refinements, methods, layouts, formats or models.")
    ] = "fitness",
    json_: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List fitness functions, merges, refinements, search methods, layouts of checkpoints, formats of rounded caches,
    or supported models.

    Example: gqasearch ls methods
    """
    with clear_errors():
        from gqasearch.errors import unknown_name

        lists: dict[str, Callable[[], list[Row]]] = {
            "fitness": _fitness,
            "merges": _merges,
            "refinements": _refinements,
            "methods": _methods,
            "layouts": _layouts,
            "formats": _formats,
            "models": _models,
        }
        if what not in lists:
            raise unknown_name("list", what, lists)
        quiet_libraries(0)
        rows = lists[what]()
        if json_:
            print_json({what: rows})
        else:
            _print_table(rows)


def _print_table(rows: list[Row]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in rows[0]:
        # A table of 80 letters folds what is left to fold: sentences get what an error's longest word needs.
        least = 26 if column == "what" else None
        table.add_column(column, overflow="fold", no_wrap=column in ("name", "parameters"), min_width=least)
    for row in rows:
        table.add_row(*(_cell(column, text) for column, text in row.items()))
    output_console().print(table)


def _cell(column: str, text: str) -> str:
    """Parameters have a line each: a table breaks lines anywhere, in the middle of a number, too."""
    return re.sub(r", (?=\w+=)", "\n", text) if column == "parameters" else text


def _parameters(kind: type[Any]) -> str:
    return ", ".join(f"{field.name}={field.default!r}" for field in fields(kind)) or "none"


def _rows(registry: Registry[Any], facts: Callable[[Any], Row]) -> list[Row]:
    """One of every class that can be used, and of every plug-in that cannot, with the reason; by name."""
    usable: list[Row] = [
        {"name": name}
        | facts(kind)
        | {"what": kind.summary, "parameters": _parameters(kind), "reference": kind.reference}
        for name, kind in registry.available().items()
    ]
    empty = dict.fromkeys(usable[0], "")
    broken = [empty | {"name": name, "what": f"broken: {why}"} for name, why in registry.broken().items()]
    return sorted(usable + broken, key=lambda row: row["name"])


def _fitness() -> list[Row]:
    from gqasearch.fitness import FITNESS

    return _rows(FITNESS, lambda kind: {"needs": kind.needs})


def _merges() -> list[Row]:
    from gqasearch.merging import MERGE_REGISTRY

    return _rows(MERGE_REGISTRY, lambda kind: {"needs": kind().needs})


def _refinements() -> list[Row]:
    from gqasearch.refining import REFINEMENT_REGISTRY

    return _rows(REFINEMENT_REGISTRY, lambda _: {})


def _methods() -> list[Row]:
    from gqasearch.searching import METHOD_REGISTRY

    return _rows(METHOD_REGISTRY, lambda kind: {"objectives": "one or more" if kind.multi_objective else "one"})


def _layouts() -> list[Row]:
    from gqasearch.checkpoints import LAYOUTS

    return _rows(LAYOUTS, lambda _: {})


def _formats() -> list[Row]:
    """``bits`` per number of a head of 128, scales and zero points counted."""
    from gqasearch.rounding import FORMATS, parse_format

    formats = {name: parse_format(name) for name in FORMATS}
    return [
        {
            "name": name,
            "what": kv.k.summary,
            "bits": f"{8 * kv.bytes_per_token(1, 1, 128) / 256:.4g}",
            "reference": kv.k.reference,
        }
        for name, kv in formats.items()
    ]


def _models() -> list[Row]:
    from gqasearch.models import FAMILIES

    return [
        {"name": family.name, "architectures": ", ".join(family.architectures), "what": _first_words(family)}
        for family in FAMILIES
    ]


def _first_words(family: object) -> str:
    """The first paragraph of its docstring, without marks of code."""
    paragraph = inspect.getdoc(type(family) if not isinstance(family, type) else family) or ""
    return " ".join(paragraph.split("\n\n")[0].replace("``", "").split())
