"""What a sweep draws: numbers from a range, names from a list, some of them only when another was drawn."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import optuna
from pydantic import Field, field_validator, model_validator

from gqasearch.errors import UserError
from gqasearch.settings import Settings

Choice = bool | int | float | str | None


class _Parameter(Settings, ABC):
    """``when``: drawn only where these parameters, each above it in the file, were drawn with one of these values."""

    when: dict[str, Choice | list[Choice]] = Field(default_factory=dict)

    def is_active(self, drawn: Mapping[str, Any]) -> bool:
        """Whether this parameter counts, given those above it that do."""
        return all(name in drawn and drawn[name] in allowed for name, allowed in self.conditions())

    def conditions(self) -> Iterator[tuple[str, list[Choice]]]:
        """Parameters that this one depends on, and the values of theirs that let it count."""
        for name, allowed in self.when.items():
            yield name, allowed if isinstance(allowed, list) else [allowed]

    @abstractmethod
    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """A value for this trial."""

    @abstractmethod
    def values(self) -> list[Any]:
        """All values. Raises ``UserError`` where there is no end of them."""

    @abstractmethod
    def extremes(self) -> list[Any]:
        """Values that can only be right if all are: the ends of a range, every choice."""


class _Range(_Parameter):
    """From ``low`` to ``high``, both included. ``log``: evenly over factors. ``step``: multiples of it over ``low``."""

    low: Any
    high: Any
    log: bool = False
    step: Any = None

    @model_validator(mode="after")
    def _check(self) -> _Range:
        if not self.low <= self.high:
            raise ValueError(f"low must be at most high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0, got {self.low}")
        if self.log and self.step is not None:
            raise ValueError("log and step cannot be combined; leave one out")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step must be above 0, got {self.step}")
        return self

    def extremes(self) -> list[Any]:
        return [self.low, self.high]


class FloatRange(_Range):
    """A real number."""

    type: Literal["float"]
    low: float
    high: float
    step: float | None = None

    def suggest(self, trial: optuna.Trial, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def values(self) -> list[Any]:
        if self.step is None:
            raise UserError(
                "a float without step has no end of values, so that they cannot all be tried; give it a step"
            )
        return [
            self.low + index * self.step for index in range(1 + math.floor((self.high - self.low) / self.step + 1e-9))
        ]


class IntRange(_Range):
    """A whole number."""

    type: Literal["int"]
    low: int
    high: int
    step: int | None = None

    def suggest(self, trial: optuna.Trial, name: str) -> int:
        return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)

    def values(self) -> list[Any]:
        return list(range(self.low, self.high + 1, self.step or 1))


class Categorical(_Parameter):
    """One of a list, without order. A list in the file is short for it."""

    type: Literal["categorical"]
    choices: tuple[Choice, ...] = Field(min_length=1)

    @field_validator("choices", mode="before")
    @classmethod
    def _check_choices(cls, given: Any) -> Any:
        """Optuna keeps the place of a choice, so that equal ones would be one; NaN is not even equal to itself."""
        if not isinstance(given, list | tuple):
            return given
        for choice in given:
            if not isinstance(choice, Choice) or (isinstance(choice, float) and not math.isfinite(choice)):
                raise ValueError(f"choices must be finite numbers, words, true, false or null, got {choice!r}")
        if len(set(given)) < len(given):
            raise ValueError(f"choices must differ, got {list(given)}")
        return given

    def suggest(self, trial: optuna.Trial, name: str) -> Choice:
        return trial.suggest_categorical(name, self.choices)

    def values(self) -> list[Any]:
        return list(self.choices)

    def extremes(self) -> list[Any]:
        return list(self.choices)


KINDS = ("float", "int", "categorical")
Parameter = Annotated[FloatRange | IntRange | Categorical, Field(discriminator="type")]


def draw(trial: optuna.Trial, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """One value for every parameter that counts in this trial."""
    drawn: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if parameter.is_active(drawn):
            drawn[name] = parameter.suggest(trial, name)
    return drawn


def extreme_draws(parameters: Mapping[str, Parameter]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """For every parameter and extreme value of it: (name, value, a draw that has it); the others are at their first."""
    for name, parameter in parameters.items():
        for value in parameter.extremes():
            wanted = {name: value}
            for above in reversed(list(parameters)):
                if above in wanted:
                    wanted |= {other: allowed[0] for other, allowed in parameters[above].conditions()} | wanted
            drawn: dict[str, Any] = {}
            for other, its in parameters.items():
                if its.is_active(drawn):
                    drawn[other] = wanted.get(other, its.extremes()[0])
            yield name, value, drawn


def count_draws(parameters: Mapping[str, Parameter]) -> int:
    """How many different draws there are. Raises ``UserError`` where there is no end of them."""
    draws: list[dict[str, Any]] = [{}]
    for name, parameter in parameters.items():
        try:
            values = parameter.values()
        except UserError as error:
            raise UserError(f"parameters.{name}: {error}") from None
        draws = [
            {**drawn, **extra}
            for drawn in draws
            for extra in ([{name: value} for value in values] if parameter.is_active(drawn) else [{}])
        ]
    return len(draws)
