"""The flags of ``search`` and ``heal``: made from the fields of their configurations, so that both always agree."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic import BaseModel
from typer.models import ArgumentInfo

from gqasearch.cli.config_file import RUN, read_config
from gqasearch.config import SIZES, RunConfig, apply_settings, build_config
from gqasearch.sections import SECTIONS

# Reached by --fitness, --objective and --set instead.
NO_FLAG = {"objectives", "fitness_parameters", "merge_parameters", "refine_parameters", "method_parameters"}

# Under which heading ``--help`` shows a flag; of other configurations all are under the last.
PANEL_OF = {name: section.heading for section in SECTIONS for name in section.model_fields}


def config_parameters(settings: type[BaseModel] = RunConfig) -> list[inspect.Parameter]:
    """One optional keyword parameter per field of a configuration that is a flag."""
    return [
        _parameter(name, field.annotation, field.description or "", field.get_default(call_default_factory=True))
        for name, field in settings.model_fields.items()
        if name not in NO_FLAG and not field.is_required()
    ]


def _parameter(name: str, annotation: Any, description: str, default: Any) -> inspect.Parameter:
    kinds = [kind for kind in (get_args(annotation) or (annotation,)) if kind is not type(None)]
    kind = kinds[0] if kinds[0] in (int, float, bool, str) else str
    words = {None: "", True: " [default: yes]", False: ""}
    shown = words[default] if default is None or isinstance(default, bool) else f" [default: {default}]"
    panel = PANEL_OF.get(name, "Settings")
    option = typer.Option(help=f"{description}{shown}", show_default=False, rich_help_panel=panel)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def with_config_flags(command: Callable[..., None], settings: type[BaseModel] = RunConfig) -> Callable[..., None]:
    """Give ``command(**flags)`` the flags of every field of ``settings``, after its own parameters."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    signature = inspect.Signature(
        [*(p if _is_argument(p) else p.replace(kind=p.KEYWORD_ONLY) for p in own), *config_parameters(settings)]
    )
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return command


def _is_argument(parameter: inspect.Parameter) -> bool:
    """Whether it is given by its place, without a flag."""
    return any(isinstance(part, ArgumentInfo) for part in get_args(parameter.annotation)[1:])


def resolve_config(
    file: Path | None, flags: dict[str, Any], fitness: str | None, objectives: list[str], settings: list[str]
) -> RunConfig:
    """Defaults, then the file, then flags, then ``--set``."""
    values = read_config(file, RUN) if file else {}
    given = {name: value for name, value in flags.items() if value is not None}
    if set(SIZES) & given.keys():  # a flag replaces the file's way to say it
        values = {name: value for name, value in values.items() if name not in SIZES}
    values = {**values, **given}
    if objectives:
        values["objectives"] = ([fitness] if fitness is not None and fitness not in objectives else []) + objectives
    elif fitness is not None:
        values["objectives"] = [fitness]
    return build_config(apply_settings(values, settings))
