"""What is wrong with a value, in one line: the field as the user writes it, what was given, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from gqasearch.errors import UserError, nearest, unknown_name

LARGEST = 2**63 - 1  # torch and NumPy count no further
# Pydantic's words for these name types of Python, or how it read text.
_WORDS = {
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of names to values",
    "model_type": "must be a mapping of names to values",
    "model_attributes_type": "must be a mapping of names to values",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_parsing": "must be yes or no",
    "bool_type": "must be yes or no",
    "missing": "is missing",
    "invalid_key": "names must be text",
}
_SAYS_THE_VALUE = ("value_error", "missing")


class FieldError(ValueError):
    """Raised by the check of a whole mapping: what is wrong with one ``field`` of it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def check_number(value: Any, kind: Any) -> None:
    """Refuse yes or no where ``kind`` is a number, and whole numbers beyond ``LARGEST``: pydantic takes both.

    Raises ``ValueError``.
    """
    kinds = set(_leaves(kind))
    for one in value if isinstance(value, list | tuple) else (value,):
        if isinstance(one, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError(f"must be a number, got {str(one).lower()}")
        if isinstance(one, int) and abs(one) > LARGEST and int in kinds:
            raise ValueError(f"must be below 2**63, got {one}")


def mistake(error: ValidationError, model: type[BaseModel], what: str) -> UserError:
    """The first thing wrong with the values of a ``model``; a name that it does not know before all others, since a
    misspelt name is missing too. ``what``: what its fields are called ("setting").
    """
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    place, owner = _locate(model, first["loc"])
    if isinstance(inner := first.get("ctx", {}).get("error"), FieldError):
        place.append(inner.field)
    if first["type"] == "extra_forbidden" and owner is not None:
        label = f"field in {'.'.join(place[:-1])}:" if place[1:] else what
        return unknown_name(label, place[-1], owner.model_fields)
    return UserError(": ".join([*filter(None, [".".join(place)]), reason(first)]))


def reason(details: Mapping[str, Any]) -> str:
    """One of pydantic's errors in our words: what is allowed, what was given, and which choice was meant."""
    kind, given = details["type"], details["input"]
    said = _WORDS.get(kind) or details["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    choices = re.findall(r"'([^']*)'", details["ctx"]["expected"]) if kind == "literal_error" else []
    got = "" if kind in _SAYS_THE_VALUE else f", got {given!r}"
    return f"{said}{got}{nearest(str(given), choices)}"


def _locate(kind: Any, path: Sequence[str | int]) -> tuple[list[str], type[BaseModel] | None]:
    """A place as the file has it, and the model whose field it is; None where no model has fields there."""
    shown: list[str] = []
    owner: type[BaseModel] | None = None
    for part in path:
        kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        chosen = [one for one in _members(kind) if part == _tag(one)]
        if chosen:  # pydantic puts the kind that was chosen into the path
            kind = chosen[0]
            continue
        if part == "[key]":
            continue
        models = [one for one in _members(kind) if _is_model(one)]
        owner = models[0] if len(models) == 1 else None
        shown.append(str(part))
        kind = _inside(kind, owner, part)
    return shown, owner


def _inside(kind: Any, owner: type[BaseModel] | None, part: str | int) -> Any:
    """The type of what stands at ``part``; None where that is unknown."""
    if owner is not None:
        field = owner.model_fields.get(str(part))
        return None if field is None else field.annotation
    arguments = [one for one in get_args(kind) if one is not Ellipsis]
    return arguments[-1] if arguments else None


def _members(kind: Any) -> tuple[Any, ...]:
    """The types that a union allows."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _tag(kind: Any) -> str | None:
    """What the field ``type`` must be for this model to be the one that is meant."""
    field = kind.model_fields.get("type") if _is_model(kind) else None
    return next(iter(get_args(field.annotation)), None) if field is not None else None


def _leaves(kind: Any) -> list[Any]:
    """All plain types in an annotation."""
    arguments = get_args(kind)
    return [leaf for one in arguments for leaf in _leaves(one)] if arguments else [kind]
