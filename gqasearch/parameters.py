"""Methods as dataclasses: built from named parameters, with misspelt names and wrong types refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gqasearch.errors import UserError, unknown_name
from gqasearch.mistakes import check_number, reason

T = TypeVar("T")
_FINITE = ConfigDict(allow_inf_nan=False)


def construct(kind: type[T], label: str, parameters: dict[str, Any]) -> T:
    """Build the dataclass ``kind``; ``label`` names it in errors ("fitness merge-error").

    Raises ``UserError`` for a parameter it does not have (with the nearest one) or a value of the
    wrong type.
    """
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in parameters:
        if name not in known:
            raise unknown_name(f"parameter of {label}", name, known)
    hints, checked = _hints(kind), dict(parameters)
    try:
        for name, value in parameters.items():
            check_number(value, hints[name])
            checked[name] = TypeAdapter(hints[name], config=_FINITE).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{label}: parameter {name}: {reason(error.errors()[0])}") from None
    except ValueError as error:
        raise UserError(f"{label}: parameter {name}: {error}") from None
    try:
        return kind(**checked)
    except (ValueError, TypeError) as error:
        raise UserError(f"{label}: {error}") from None


def _hints(kind: type[Any]) -> dict[str, Any]:
    from typing import get_type_hints

    return get_type_hints(kind)
