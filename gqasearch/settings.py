"""Settings: typed models with one strictness, and the YAML files that hold them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from gqasearch.errors import UserError
from gqasearch.mistakes import FieldError, check_number, mistake


class Settings(BaseModel):
    """Every name and value is checked: unknown names, empty text, NaN, infinities, and yes or no for a number are
    refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _check_numbers(cls, given: Any) -> Any:
        for name, field in cls.model_fields.items():
            try:
                check_number(given.get(name) if isinstance(given, dict) else None, field.annotation)
            except ValueError as error:
                raise FieldError(name, str(error)) from None
        return given

    def to_yaml(self) -> str:
        """The resolved settings, as a run's folder keeps them."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], values: Mapping[str, Any], what: str = "setting") -> Model:
    """A ``model`` of these values; the first thing wrong becomes a ``UserError``. ``what``: what its fields are."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise mistake(error, model, what) from None


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is given twice, of which PyYAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = []
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.append(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str | bytes) -> Any:
    """A YAML value, in whatever Unicode its bytes are. Raises ``ValueError``: what is wrong, in one line."""
    try:
        return yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark, said = error.problem_mark, ", ".join(filter(None, (error.context, error.problem)))
        raise ValueError(f"{said} (line {mark.line + 1}, column {mark.column + 1})" if mark else said) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # noqa: BLE001 - PyYAML lets a date or a tag that does not fit its value fail in any way
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def read_config_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, unchecked."""
    try:
        loaded = parse_yaml(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UserError(f"{path} must hold a mapping of settings, got {type(loaded).__name__}")
    return loaded
