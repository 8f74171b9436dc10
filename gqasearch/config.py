"""The options of a run: one typed model makes the config file and the command line's flags."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationInfo, field_validator, model_validator

from gqasearch.budget import (
    Budget,
    Geometry,
    check_equal,
    counts_from_heads,
    counts_from_model_ratio,
    counts_from_ratio,
    counts_from_total,
    counts_of_two,
    require_several_heads,
)
from gqasearch.errors import UserError, unknown_name
from gqasearch.grouping import Grouping
from gqasearch.sections import (
    BatchSettings,
    CheckpointSettings,
    FormatSettings,
    JoinSettings,
    MachineSettings,
    MergeSettings,
    ModelSettings,
    ObjectiveSettings,
    ReportedTextSettings,
    SearchSettings,
    SearchTextSettings,
    Section,
    SideSettings,
    SizeSettings,
    StatisticsTextSettings,
)
from gqasearch.separate_grouping import AnyGrouping, SeparateGrouping
from gqasearch.settings import checked, parse_yaml
from gqasearch.settings import read_config_file as read_config_file

KV_RATIO, KV_BYTES = "kv-ratio", "kv-bytes"  # the objectives that are no fitness functions
KL = "kl"  # the one that heads and bits are compared by
PARAMETERISED = ("fitness", "merge", "refine", "method")  # what --set SECTION.PARAMETER=VALUE reaches

SIZES = ("kv_ratio", "kv_heads", "kv_budget", "kv_bytes")  # how large the cache will be, told in one way

# What a method goes with, taken where the user names nothing else.
PRESETS: dict[str, dict[str, Any]] = {
    "qcqa-ac": {"objectives": ("weight-sharing-error",), "merge": "mean"},
    "qcqa-ec": {"objectives": ("weight-sharing-error",), "merge": "mean"},
    "asymgqa": {"objectives": ("perplexity",), "merge": "mean"},
    "staged": {"objectives": ("kl",)},
}


# The last section's fields come first.
class RunConfig(
    CheckpointSettings,
    BatchSettings,
    MachineSettings,
    ReportedTextSettings,
    SearchTextSettings,
    StatisticsTextSettings,
    SearchSettings,
    MergeSettings,
    ObjectiveSettings,
    FormatSettings,
    SideSettings,
    SizeSettings,
    JoinSettings,
    ModelSettings,
):
    """Everything that decides a run's result, section by section."""

    def key(self, *sections: type[Section]) -> str:
        """The values of these sections: what depends on nothing else is known by it."""
        names = {name for section in sections for name in section.model_fields}
        return json.dumps(self.model_dump(mode="json", include=names), sort_keys=True)

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        given = [name for name in SIZES if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {', '.join(SIZES)}, not {' and '.join(given)}")
        if self.uneven and (self.kv_heads is not None or self.kv_budget is not None):
            raise ValueError("uneven has no effect with kv_heads or kv_budget; give kv_ratio with it")
        if self.uneven and KV_RATIO in self.objectives:
            raise ValueError("uneven has no effect with kv-ratio as an objective, where layers differ anyway")
        if self.equal_sizes and self.uneven:
            raise ValueError("equal_sizes needs one number of groups for all layers; leave uneven out")
        if self.equal_sizes and self.max_group_size is not None:
            raise ValueError("max_group_size has no effect with equal_sizes; give one of them")
        if self.evaluation_part == "validation" and self.evaluation_text is not None:
            raise ValueError("evaluation_part validation is a part of the calibration text; leave evaluation_text out")
        if not self.objectives or len(set(self.objectives)) != len(self.objectives):
            raise ValueError(f"objectives must be one or more different names, got {list(self.objectives)}")
        if self.objectives[0] == KV_RATIO:
            raise ValueError("the first objective must be a fitness; kv-ratio alone would merge everything")
        if len([name for name in self.objectives if name not in (KV_RATIO, KV_BYTES)]) > 1 and self.fitness_parameters:
            raise ValueError("fitness parameters are ambiguous with several fitness functions as objectives")
        return self

    @field_validator("kv_bits", "formats")
    @classmethod
    def _check_formats(cls, value: str | None, field: ValidationInfo) -> str | None:
        if value is not None:
            from gqasearch.rounding import parse_format, parse_formats  # torch, which nothing else here needs

            try:
                parse_format(value) if field.field_name == "kv_bits" else parse_formats(value)
            except UserError as error:
                raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _check_bytes(self) -> RunConfig:
        if not self.decides_format:
            if self.formats is not None:
                raise ValueError("formats has no effect without kv_bytes; kv_bits names one format")
            return self
        if self.kv_bits is not None:
            raise ValueError("kv_bytes decides the format itself; give formats in place of kv_bits")
        if KV_BYTES in self.objectives:
            if self.objectives != (KL, KV_BYTES):
                raise ValueError(f"objective {KV_BYTES} goes with {KL} alone before it: {KL} {KV_BYTES}")
            if self.method != "evolution" or self.fitness_parameters:
                raise ValueError(f"objective {KV_BYTES} goes with method evolution, and no parameters of the fitness")
            if self.uneven:
                raise ValueError(f"uneven has no effect with {KV_BYTES} as an objective, where layers differ anyway")
            if given := [name for name in SIZES[:3] if getattr(self, name) is not None]:
                raise ValueError(f"with {KV_BYTES} as an objective give kv_bytes in place of {given[0]}")
        return self

    @model_validator(mode="after")
    def _check_separate(self) -> RunConfig:
        alone = [name for name in ("join", "tensor_parallel") if getattr(self, name) > 1]
        if self.separate_kv and alone:
            raise ValueError(f"separate_kv does not go with {alone[0]}, whose heads hold keys and values of one group")
        return self

    @property
    def fitness(self) -> str:
        """The first objective: the one that says which candidate is best."""
        return self.objectives[0]

    @property
    def decides_format(self) -> bool:
        """Whether the run decides how the cache is rounded, before it decides anything else."""
        return self.kv_bytes is not None or KV_BYTES in self.objectives

    @property
    def has_free_counts(self) -> bool:
        """True when the KV ratio is an objective, so that no budget holds."""
        return KV_RATIO in self.objectives

    @property
    def layers_may_differ(self) -> bool:
        """Whether the budget lets layers end with different numbers of groups."""
        return self.uneven or self.kv_budget is not None or self.has_free_counts or self.layout == "mimo"

    def grouping_of(self, candidate: Grouping) -> AnyGrouping:
        """What a candidate of the search makes of the model."""
        return SeparateGrouping.from_sides(candidate) if self.separate_kv else candidate

    def counts(self, geometry: Geometry) -> tuple[int, ...]:
        """Groups per layer, (L,); with ``separate_kv`` of its keys and of its values, (2 L,)."""
        require_several_heads(geometry)
        if self.decides_format and self.kv_heads is None and self.kv_budget is None:
            raise UserError("kv_bytes: how many heads there are is decided by a search")
        heads, step = geometry.num_kv_heads, self.tensor_parallel
        layers = geometry.num_layers * (2 if self.separate_kv else 1)
        if step > heads:
            raise UserError(f"tensor_parallel must be at most the model's {heads} KV heads, got {step}")
        most = heads // self.join  # more would take as much memory as the model's own, or more
        if self.kv_heads is not None:
            counts = counts_from_heads(self.kv_heads, layers, heads)
        elif self.layout == "mimo":
            wanted = self.kv_budget or (self.kv_ratio or 0.5) * layers * heads
            counts = counts_of_two(wanted, layers, heads, step, exactly=self.kv_budget is not None)
        elif self.kv_budget is not None:
            counts = counts_from_total(self.kv_budget, layers, heads, step)
        else:
            ratio = 0.5 if self.kv_ratio is None else self.kv_ratio
            if ratio <= 1:  # of a larger one the error tells what was given
                ratio = min(ratio / self.join, most / heads)
            counts = (counts_from_model_ratio if self.uneven else counts_from_ratio)(ratio, layers, heads, step)
        if max(counts) > most:
            raise UserError(
                f"--join {self.join}: at most {most} KV heads of {self.join} times the size take no more memory than "
                f"the {heads} that a layer has, got {max(counts)}"
            )
        return counts

    def budget(self, geometry: Geometry, *, splits_budget: bool = False) -> Budget:
        """The budget in this model's heads; sizes are bounded, or searches drift to one giant group.

        ``splits_budget``: the method decides every layer's groups itself, so only their sum is fixed.
        """
        counts, heads, step = self.counts(geometry), geometry.num_kv_heads, self.tensor_parallel
        if splits_budget:
            if self.equal_sizes:
                raise UserError(f"method {self.method} decides group sizes itself; leave equal_sizes out")
            if self.tensor_parallel > 1 or self.layout == "mimo":
                left_out = "tensor_parallel" if self.tensor_parallel > 1 else "layout mimo"
                raise UserError(f"method {self.method} decides the groups of every layer; leave {left_out} out")
            return Budget(counts, heads, movable=True, smallest_group=self.join, largest_group=self.max_group_size)
        if self.equal_sizes:
            if self.has_free_counts:
                raise UserError("equal_sizes needs one number of groups for all layers; use kv_ratio or kv_heads")
            check_equal(counts, heads)
            size = heads // counts[0]
            return Budget(counts, heads, smallest_group=size, largest_group=size, count_step=step)
        if self.layers_may_differ:
            # No size to bound in terms of a mean: a layer may end with one group.
            step, most = (min(counts), 2 * min(counts)) if self.layout == "mimo" else (step, None)
            sizes = (self.join, self.max_group_size)
            return Budget(counts, heads, not self.has_free_counts, *sizes, count_step=step, most_groups=most)
        largest = self.max_group_size or min(heads, 2 * -(-heads // min(counts)))
        return Budget(counts, heads, smallest_group=self.join, largest_group=largest, count_step=step)


def build_config(values: dict[str, Any]) -> RunConfig:
    """A checked configuration, presets filled in; the first thing wrong becomes a ``UserError``."""
    return checked(RunConfig, {**PRESETS.get(str(values.get("method")), {}), **values})


def apply_settings(values: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """Apply ``--set`` items: ``key=value``, or ``fitness|merge|refine|method.parameter=value``; values are YAML."""
    result = dict(values)
    for item in settings:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise UserError(f"--set {item}: expected key=value, for example method.population=64")
        try:
            value = parse_yaml(text)
        except ValueError as error:
            raise UserError(f"--set {item}: the value is not valid YAML: {error}") from None
        section, dot, parameter = key.partition(".")
        if not dot:
            result[key] = value
            continue
        if section not in PARAMETERISED:
            raise unknown_name("section in --set", section, PARAMETERISED)
        name = f"{section}_parameters"
        result[name] = {**(result.get(name) or {}), parameter: value}
    return result
