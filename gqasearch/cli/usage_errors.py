"""Mistakes in options, told in one line like all others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from gqasearch.errors import nearest

# Typer has no public name for it, and takes click's own in older versions.
UsageError: Any = typer.BadParameter.__bases__[0]


class OneLineErrors(TyperGroup):
    """A group of commands that says what is wrong with an option in one line, without a box around it."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _one_line():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _one_line():
            return super().invoke(ctx)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # no mistake: it shows the help
            raise
        typer.echo(f"gqasearch: {_words(error)}", err=True)
        raise typer.Exit(error.exit_code) from None


def _words(error: Any) -> str:
    """Which option, what is allowed, and what was given."""
    command = error.ctx.command_path if error.ctx is not None else "gqasearch"
    if (wrong := getattr(error, "option_name", None)) and hasattr(error, "possibilities"):
        return f"unknown option {wrong}{nearest(wrong, error.possibilities or ()) or ';'} {command} --help lists them"
    if error.__cause__ is not None and hasattr(error.__cause__, "errors"):
        from gqasearch.mistakes import reason

        return f"{error.param.opts[0]}: {reason(error.__cause__.errors()[0])}"
    said = error.format_message().rstrip(".")
    return f"{said[:1].lower()}{said[1:]}{' See' if said.endswith('?') else '; see'} {command} --help"
