"""The options of a run: one typed model makes the config file and the command line's flags."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

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
from gqasearch.layout_choice import LayoutChoice
from gqasearch.separate_grouping import AnyGrouping, SeparateGrouping
from gqasearch.settings import Settings, checked, parse_yaml
from gqasearch.settings import read_config_file as read_config_file
from gqasearch.targets import TargetName

KV_RATIO, KV_BYTES = "kv-ratio", "kv-bytes"  # the objectives that are no fitness functions
KL = "kl"  # the one that heads and bits are compared by
SECTIONS = ("fitness", "merge", "refine", "method")  # what --set SECTION.PARAMETER=VALUE reaches

SIZES = ("kv_ratio", "kv_heads", "kv_budget", "kv_bytes")  # how large the cache will be, told in one way

# What a method goes with, taken where the user names nothing else.
PRESETS: dict[str, dict[str, Any]] = {
    "qcqa-ac": {"objectives": ("weight-sharing-error",), "merge": "mean"},
    "qcqa-ec": {"objectives": ("weight-sharing-error",), "merge": "mean"},
    "asymgqa": {"objectives": ("perplexity",), "merge": "mean"},
    "staged": {"objectives": ("kl",)},
}


class RunConfig(Settings):
    """Everything that decides a run's result."""

    model: str = Field("embedded", description="'embedded', a checkpoint folder, a GGUF file, or a hub id (org/name)")
    revision: str | None = Field(None, description="hub revision of the model")
    kv_ratio: float | None = Field(None, description="share of the KV cache to keep, the same in every layer")
    kv_heads: int | None = Field(None, description="KV heads per layer, of the size that they will have")
    kv_budget: int | None = Field(None, description="KV heads of the whole model; layers may differ")
    kv_bytes: float | None = Field(
        None,
        gt=0,
        le=1,
        description="bytes of the KV cache over those of all heads in 16 bits: heads and format are decided together",
    )
    formats: str | None = Field(
        None,
        description="cache formats that kv_bytes chooses from: int8,k8v4,q8_0/q4_0 [default: what the target has; "
        "without a target 16 to 2 bits]",
    )
    join: int = Field(
        1, ge=1, description="size of a KV head, in heads of the model: one of n sizes stands for n heads or more"
    )
    separate_kv: bool = Field(
        False,
        description="key heads and value heads are grouped apart; layout ragged alone, and each counts as a KV head",
    )
    uneven: bool = Field(False, description="the kv_ratio holds for the whole model; layers may differ")
    equal_sizes: bool = Field(False, description="groups of equal size only (EC)")
    max_group_size: int | None = Field(None, ge=1, description="largest group; default twice the mean size")
    tensor_parallel: int = Field(1, ge=1, description="devices that share every layer: they divide its KV heads")
    objectives: tuple[str, ...] = Field(("merge-error",), description="what to minimise: fitness, kv-ratio, kv-bytes")
    fitness_parameters: dict[str, Any] = Field(default_factory=dict, description="parameters of the fitness")
    merge: str = Field("optimal", description="how the heads of a group become one")
    merge_parameters: dict[str, Any] = Field(default_factory=dict, description="parameters of the merge")
    refine: str | None = Field(None, description="what is fitted after the merge [default: what the merge goes with]")
    refine_parameters: dict[str, Any] = Field(default_factory=dict, description="parameters of the refinement")
    method: str = Field("evolution", description="how to search")
    method_parameters: dict[str, Any] = Field(default_factory=dict, description="parameters of the method")
    max_evaluations: int | None = Field(
        None, ge=1, description="begin no further generation after so many evaluations; by layer, an equal share each"
    )
    max_seconds: float | None = Field(
        None, gt=0, description="the same after so many seconds of search; the result then depends on the machine"
    )
    seed: int = Field(0, ge=0, description="seed of the one random generator")
    calibration_text: str = Field(
        "embedded", description="'embedded', FILE.txt, FILE.jsonl or a folder of them; cut into disjoint parts"
    )
    evaluation_text: str | None = Field(
        None, description="other text to report on, whole [default: the held-out part of the calibration text]"
    )
    evaluation_part: Literal["held-out", "validation"] = Field(
        "held-out",
        description="report on the held-out part, or on validation: the end of the search part, to compare settings on",
    )
    calibration_tokens: int = Field(65536, ge=2, description="tokens the statistics are gathered on")
    masked_blocks: float | None = Field(
        None,
        ge=0,
        le=1,
        description="encoders: share of the statistics' blocks with mask tokens, as a masked-language-model head reads "
        "text; the others are plain, as embeddings read it [default: 0.5, without such a head 0]",
    )
    search_tokens: int = Field(16384, ge=2, description="tokens that fitness functions may run the model on")
    evaluation_tokens: int = Field(65536, ge=2, description="held-out tokens that results are reported on")
    block_length: int = Field(256, ge=4, description="tokens per block")
    batch_blocks: int = Field(8, ge=1, description="blocks per forward pass")
    fill_slots: bool = Field(False, description="query slots to spare: heads served worst read a second group there")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="dtype the model runs in")
    device: str = Field(
        "cpu",
        description="cpu, cuda, cuda:1, mps, or auto: a GPU if there is one; cuda:0,cuda:1: layers spread over these",
    )
    kv_bits: str | None = Field(
        None,
        description="how the KV cache will be rounded (4, k8v4, q4_0, ...): keys and values get the basis in which "
        "that hurts least, and results are also reported so",
    )
    certify: bool = Field(False, description="prove how far every layer is from the best grouping of its size")
    certify_seconds: float = Field(60.0, gt=0, description="most seconds that one layer's proof may take")
    baseline: bool = Field(True, description="also measure neighbour grouping with the mean merge")
    materialize: bool = Field(True, description="write the converted checkpoint")
    layout: LayoutChoice = Field("auto", description="form of the checkpoint: auto, stock, deci, ragged, mimo, openelm")
    target: TargetName | None = Field(
        None, description="engine that has to load it: transformers, vllm, llama.cpp, ctranslate2, mlx, any (all)"
    )

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
            raise UserError("kv_bytes: how many heads there are is decided by a run in a folder, gqasearch search")
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
        if section not in SECTIONS:
            raise unknown_name("section in --set", section, SECTIONS)
        name = f"{section}_parameters"
        result[name] = {**(result.get(name) or {}), parameter: value}
    return result
