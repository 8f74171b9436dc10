"""A sweep's YAML file: what is drawn, what is fixed, what trials are compared by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gqasearch.config import RunConfig, build_config, read_config_file
from gqasearch.errors import UserError, nearest, unknown_name
from gqasearch.mistakes import FieldError
from gqasearch.settings import Settings, checked
from gqasearch.sweeps.drawn_parameters import KINDS, Categorical, Parameter, count_draws, extreme_draws
from gqasearch.sweeps.objectives import OBJECTIVES
from gqasearch.sweeps.optimisers import EXHAUSTIVE, make_pruner, make_sampler
from gqasearch.sweeps.trial_settings import FIXED, check_name, checked_config, nested, refuse_incomparable_fitness


class Named(BaseModel):
    """A sampler or pruner: its name, and its parameters beside it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Validation(Settings):
    """The text that trials are compared on: ``tokens`` of the search part's end, or of another ``text``."""

    tokens: int = Field(default=16384, ge=2)
    text: str | None = None


class Heartbeat(Settings):
    """A trial that was silent for ``grace`` seconds is taken for dead and run again, ``retries`` times at most."""

    interval: int = Field(default=15, ge=1)
    grace: int = Field(default=60, ge=1)
    retries: int = Field(default=3, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Heartbeat:
        if self.grace <= self.interval:
            raise ValueError(f"grace must be above interval, got {self.grace} and {self.interval}")
        return self


class Sweep(Settings):
    """All of a file."""

    name: str | None = Field(None, min_length=1)
    objectives: tuple[str, ...] = Field(min_length=1)
    trials: int | None = Field(None, ge=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, Parameter] = Field(min_length=1)
    sampler: Named = Named(name="tpe")
    pruner: Named = Named(name="none")
    validation: Validation = Validation()
    heartbeat: Heartbeat = Heartbeat()
    max_failed: int = Field(default=10, ge=0)

    @field_validator("sampler", "pruner", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    @field_validator("objectives", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @field_validator("parameters", mode="before")
    @classmethod
    def _listed_choices(cls, given: Any) -> Any:
        """A list is short for a choice; refuses what is of no kind."""
        if not isinstance(given, dict):
            return given
        found = {
            name: {"type": "categorical", "choices": value} if isinstance(value, list) else value
            for name, value in given.items()
        }
        for name, value in found.items():
            kind = value.get("type") if isinstance(value, dict) else None
            if kind not in KINDS:
                allowed = "a list of choices, or a mapping with type: float, int or categorical"
                raise FieldError(name, f"got {value!r}; expected {allowed}{nearest(str(kind), KINDS)}")
        return found

    @property
    def prunes(self) -> bool:
        return self.pruner.name != "none"

    def trial_config(self, drawn: Mapping[str, Any]) -> RunConfig:
        """The run of a trial: measured on the validation text, no checkpoint, no baseline."""
        other = self.validation.text
        own: dict[str, Any] = {
            "evaluation_part": "held-out" if other else "validation",
            "evaluation_text": other,
            "evaluation_tokens": self.validation.tokens,
            "materialize": False,
            "baseline": False,
        }
        return checked_config({**self.settings, **drawn, **own})

    def final_config(self, drawn: Mapping[str, Any]) -> RunConfig:
        """The same settings as a user's own run, which reports on the held-out text."""
        return build_config(nested({**self.settings, **drawn}))

    def definition(self) -> dict[str, Any]:
        """What makes trials of one study comparable, JSON-able: all but its name and how long it runs."""
        return self.model_dump(mode="json", exclude={"name", "trials", "heartbeat", "max_failed"})

    def check(self) -> None:
        """Refuse names and values that no trial could run with. Loads no model."""
        for name in (*self.settings, *self.parameters):
            check_name(name)
        self._check_objectives()
        self._check_texts()
        self._check_parameters()
        self._check_values()
        make_sampler(self.sampler.name, self.sampler.parameters, 0)
        make_pruner(self.pruner.name, self.pruner.parameters)
        if self.sampler.name == EXHAUSTIVE:
            count_draws(self.parameters)
        if self.prunes:
            if len(self.objectives) > 1:
                raise UserError(
                    f"pruner {self.pruner.name}: Optuna prunes studies with one objective only, this one has "
                    f"{', '.join(self.objectives)}; leave the pruner out"
                )
            refuse_incomparable_fitness(self.parameters, f"pruner {self.pruner.name}")

    def _check_objectives(self) -> None:
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise unknown_name("objective", name, OBJECTIVES)
        if len(set(self.objectives)) < len(self.objectives):
            raise UserError(f"objectives must differ, got {', '.join(self.objectives)}")
        if "fitness" in self.objectives:
            refuse_incomparable_fitness(self.parameters, "objective fitness")

    def _check_texts(self) -> None:
        if "evaluation_part" in self.settings:
            raise UserError("settings.evaluation_part: a sweep compares on validation text and reports on the held-out")
        text, others = self.validation.text, ("evaluation_text", "calibration_text")
        if text is not None and text in [self.settings.get(name) for name in others]:
            raise UserError(f"validation.text {text} has another use in `settings`; give another text")

    def _check_parameters(self) -> None:
        for index, (name, parameter) in enumerate(self.parameters.items()):
            if name in FIXED:
                raise UserError(f"parameters.{name} cannot be swept: {FIXED[name]}")
            if name in self.settings:
                raise UserError(f"{name} stands in `settings` and in `parameters`; leave one out")
            above = list(self.parameters)[:index]
            for other, allowed in parameter.conditions():
                if other not in above:
                    raise unknown_name(f"parameter in parameters.{name}.when, which must be above it:", other, above)
                values = _choices(self.parameters[other])
                if not allowed or not all(value in values for value in allowed):
                    raise UserError(f"parameters.{name}.when.{other}: {allowed} is not among the choices {values}")

    def _check_values(self) -> None:
        for name, value, drawn in extreme_draws(self.parameters):
            try:
                self.trial_config(drawn)
                self.final_config(drawn)
            except UserError as error:
                hint = f"; if only some of them have {name}, add `when`" if "parameter of" in str(error) else ""
                raise UserError(f"parameters.{name} = {value!r}: {error}{hint}") from None


def _choices(parameter: Parameter) -> list[Any]:
    return list(parameter.choices) if isinstance(parameter, Categorical) else []


def read_sweep(path: Path) -> Sweep:
    """A checked sweep from a YAML file; ``UserError`` says what is wrong with which field."""
    try:
        sweep = parse_sweep(read_config_file(path))
        sweep.check()
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    return sweep


def parse_sweep(values: Mapping[str, Any]) -> Sweep:
    """A sweep from a mapping, its form checked."""
    return checked(Sweep, values, "field in the file:")
