"""The options of a comparison: one typed model makes the config file and the command line's flags."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator

from gqasearch.comparison.conditions import Condition, Entry
from gqasearch.config import RunConfig, build_config
from gqasearch.errors import UserError, unknown_name
from gqasearch.fitness import available_fitness, make_fitness
from gqasearch.merging import make_merge
from gqasearch.refining import REFINEMENTS, Descent, make_refinement
from gqasearch.searching import make_method
from gqasearch.settings import Settings, checked

# Evaluations of every search where neither evaluations nor seconds are given.
DEFAULT_EVALUATIONS = 500
# Run settings that a comparison decides itself, and what decides them.
DECIDED = {
    "objectives": "fitness",
    "fitness_parameters": "fitness_parameters",
    "merge": "merges",
    "kv_ratio": "kv_ratios",
    "kv_heads": "kv_ratios",
    "kv_budget": "kv_ratios",
    "method": "methods",
    "method_parameters": "method_parameters",
    "seed": "seeds",
    "max_evaluations": "evaluations",
    "max_seconds": "seconds",
    "baseline": "the run without a search that every comparison has",
    "certify": "gqasearch search --certify",
    "separate_kv": "gqasearch search --separate-kv",
}
SETTING = "setting of a comparison"
# The run without a search, that every winner is held against.
NO_SEARCH = Entry(None, "neighbour")


class ComparisonConfig(Settings):
    """Everything that decides a comparison's result."""

    fitness: tuple[str, ...] = Field((), description="fitness functions side by side [default: all installed]")
    fitness_parameters: dict[str, dict[str, Any]] = Field(default_factory=dict, description="fitness -> parameters")
    merges: tuple[str, ...] = Field(("optimal",), description="merges, each with its own tables")
    kv_ratios: tuple[float, ...] = Field((0.5,), description="shares of the KV heads to keep, each with its own tables")
    methods: tuple[str, ...] = Field(("evolution",), description="how to search")
    method_parameters: dict[str, dict[str, Any]] = Field(default_factory=dict, description="method -> parameters")
    seeds: int = Field(3, ge=0, description="searches of every kind; 0: no searches, ranking alone")
    evaluations: int | None = Field(None, ge=1, description="most evaluations of a search")
    seconds: float | None = Field(None, gt=0, description="most seconds of a search, instead; not reproducible")
    sample: int = Field(60, ge=0, description="random groupings to rank; 0: no ranking, searches alone")
    top: int = Field(4, ge=1, description="best groupings of every search to rank")
    sample_refine: str | None = Field(
        None, description="what is fitted in ranked models [default: as in the runs, but outputs where they descend]"
    )
    sample_tokens: int = Field(16384, ge=2, description="held-out tokens that ranked models are measured on")
    sample_seed: int = Field(0, ge=0, description="seed of the random groupings and of the resampling")
    run: dict[str, Any] = Field(default_factory=dict, description="settings of every run: model, texts, refine, ...")

    @model_validator(mode="after")
    def _check(self) -> ComparisonConfig:
        for name in ("fitness", "merges", "kv_ratios", "methods"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} must be one or more different values, got {list(values)}")
        for ratio in self.kv_ratios:
            if not 0 < ratio < 1:
                raise ValueError(f"kv_ratios must lie between 0 and 1, got {ratio:g}")
        if self.evaluations is not None and self.seconds is not None:
            raise ValueError("give one budget, evaluations or seconds, not both")
        if self.sample == 0 and self.seeds == 0:
            raise ValueError("sample and seeds are both 0: there is nothing to compare")
        if 0 < self.sample < 3:
            raise ValueError(f"sample must be 0 or at least 3 to rank anything, got {self.sample}")
        return self

    def conditions(self) -> Iterator[Condition]:
        """Every merge at every KV ratio."""
        for ratio in self.kv_ratios:
            for merge in self.merges:
                yield Condition(merge, ratio)

    def entries(self) -> Iterator[Entry]:
        """Every fitness under every method."""
        for fitness in self.fitness:
            for method in self.methods:
                yield Entry(fitness, method)

    def run_config(self, condition: Condition, entry: Entry, seed: int = 0) -> RunConfig:
        """The settings of one winner's run."""
        parameters = {} if entry.fitness is None else self.fitness_parameters.get(entry.fitness, {})
        values = {
            "materialize": False,
            **self.run,
            "objectives": ["weight-sharing-error" if entry.fitness is None else entry.fitness],
            "fitness_parameters": parameters,
            "merge": condition.merge,
            "kv_ratio": condition.kv_ratio,
            "method": entry.method,
            "method_parameters": self.method_parameters.get(entry.method, {}),
            "seed": seed,
            "baseline": False,
        }
        if entry.fitness is not None:
            values |= {"max_evaluations": self.evaluations, "max_seconds": self.seconds}
        return build_config(values)

    def refine(self, condition: Condition) -> str:
        """What is fitted after the merge in the runs."""
        given: str | None = self.run.get("refine")
        return given or make_merge(condition.merge, self.run.get("merge_parameters")).default_refinement

    def ranked_refine(self, condition: Condition) -> str:
        """What is fitted after the merge in the models that are ranked, and what their fitness is told of."""
        own = self.refine(condition)
        return self.sample_refine or ("outputs" if issubclass(REFINEMENTS[own], Descent) else own)

    def ranked_config(self, condition: Condition, fitness: str) -> RunConfig:
        """The settings that a fitness is bound to its model with, where it ranks."""
        config = self.run_config(condition, Entry(fitness, self.methods[0]))
        refine = self.ranked_refine(condition)
        changed = {"refine": refine, "refine_parameters": {} if refine != config.refine else config.refine_parameters}
        return config.model_copy(update=changed)


def build_comparison(values: dict[str, Any]) -> ComparisonConfig:
    """A checked configuration with every fitness named; the first thing wrong becomes a ``UserError``."""
    for name in values:
        if name in RunConfig.model_fields and name not in ComparisonConfig.model_fields:
            unknown = unknown_name(SETTING, name, ComparisonConfig.model_fields)
            raise UserError(f"{unknown} ({name} is a setting of runs; put it under run)")
    values = {name: value for name, value in values.items() if value is not None}
    if not values.get("fitness"):
        values["fitness"] = tuple(name for name, one in available_fitness().items() if "next-token" in one.objectives)
    if values.get("evaluations") is None and values.get("seconds") is None:
        values["evaluations"] = DEFAULT_EVALUATIONS
    config = checked(ComparisonConfig, values, SETTING)
    _check_names(config)
    return config


def _check_names(config: ComparisonConfig) -> None:
    """Refuse every name and parameter that is wrong before anything is loaded."""
    for name in config.run.keys() & DECIDED.keys():
        instead = DECIDED[name]
        how = f"give --set {instead}.NAME.KEY=value" if instead.endswith("_parameters") else f"see {instead}"
        raise UserError(f"run.{name} is decided by the comparison: {how}")
    for what, given, allowed in (
        ("fitness_parameters", config.fitness_parameters, config.fitness),
        ("method_parameters", config.method_parameters, config.methods),
    ):
        for name in given:
            if name not in allowed:
                raise UserError(f"{what} are given for {name!r}, which is not compared; compared: {', '.join(allowed)}")
    for fitness in config.fitness:
        make_fitness(fitness, config.fitness_parameters.get(fitness))
    for method in config.methods:
        make_method(method, config.method_parameters.get(method, {}))
    if config.sample_refine is not None:
        make_refinement(config.sample_refine, {})
    for condition in config.conditions():
        make_merge(condition.merge, config.run.get("merge_parameters"))
        for entry in config.entries():
            config.run_config(condition, entry)
