"""Methods as dataclasses: built from named parameters, with misspelt names and wrong types refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gqasearch.errors import UserError, unknown_name

T = TypeVar("T")


def construct(kind: type[T], label: str, parameters: dict[str, Any]) -> T:
    """Build the dataclass ``kind``; ``label`` names it in errors ("fitness merge-error").

    Raises ``UserError`` for a parameter it does not have (with the nearest one) or a value of the
    wrong type.
    """
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in parameters:
        if name not in known:
            raise unknown_name(f"parameter of {label}", name, known)
    try:
        checked = TypeAdapter(dict[str, Any]).validate_python(parameters)
        for field in fields(kind):  # type: ignore[arg-type]
            if field.name in checked:
                adapter = TypeAdapter(_hints(kind)[field.name], config=ConfigDict(strict=False))
                checked[field.name] = adapter.validate_python(checked[field.name])
        return kind(**checked)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{label}: parameter {field.name}={first['input']!r}: {first['msg']}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{label}: {error}") from None


def _hints(kind: type[Any]) -> dict[str, Any]:
    from typing import get_type_hints

    return get_type_hints(kind)
