"""The settings of a run by what they are about.

A section is its own cache key: what depends on some sections alone is known by their values (``RunConfig.key``), so a
setting that is added to one is in every key that it belongs to.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from gqasearch.layout_choice import LayoutChoice
from gqasearch.settings import Settings
from gqasearch.targets import TargetName


class Section(Settings):
    """``heading``: under which ``--help`` shows its flags."""

    heading: ClassVar[str]


class ModelSettings(Section):
    """Which model; with ``JoinSettings`` the files that it is read from."""

    heading = "The model"

    model: str = Field("embedded", description="'embedded', a checkpoint folder, a GGUF file, or a hub id (org/name)")
    revision: str | None = Field(None, description="hub revision of the model")


class JoinSettings(Section):
    """How large its KV heads will be."""

    heading = "How much is kept"

    join: int = Field(
        1, ge=1, description="size of a KV head, in heads of the model: one of n sizes stands for n heads or more"
    )


class SizeSettings(Section):
    """How many heads there will be."""

    heading = "How much is kept"

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
    uneven: bool = Field(False, description="the kv_ratio holds for the whole model; layers may differ")
    equal_sizes: bool = Field(False, description="groups of equal size only (EC)")
    max_group_size: int | None = Field(None, ge=1, description="largest group; default twice the mean size")
    tensor_parallel: int = Field(1, ge=1, description="devices that share every layer: they divide its KV heads")


class SideSettings(Section):
    """Whether a layer has one partition or two."""

    heading = "How much is kept"

    separate_kv: bool = Field(
        False,
        description="key heads and value heads are grouped apart; layout ragged alone, and each counts as a KV head",
    )


class FormatSettings(Section):
    """In what format the cache will be."""

    heading = "How much is kept"

    kv_bits: str | None = Field(
        None,
        description="how the KV cache will be rounded (4, k8v4, q4_0, ...): keys and values get the basis in which "
        "that hurts least, and results are also reported so",
    )


class ObjectiveSettings(Section):
    """What is minimised."""

    heading = "How it is searched and merged"

    objectives: tuple[str, ...] = Field(("merge-error",), description="what to minimise: fitness, kv-ratio, kv-bytes")
    fitness_parameters: dict[str, Any] = Field(default_factory=dict, description="parameters of the fitness")


class MergeSettings(Section):
    """What becomes of the heads of a group."""

    heading = "How it is searched and merged"

    merge: str = Field("optimal", description="how the heads of a group become one")
    merge_parameters: dict[str, Any] = Field(default_factory=dict, description="parameters of the merge")
    refine: str | None = Field(None, description="what is fitted after the merge [default: what the merge goes with]")
    refine_parameters: dict[str, Any] = Field(default_factory=dict, description="parameters of the refinement")


class SearchSettings(Section):
    """How groupings are looked for."""

    heading = "How it is searched and merged"

    method: str = Field("evolution", description="how to search")
    method_parameters: dict[str, Any] = Field(default_factory=dict, description="parameters of the method")
    max_evaluations: int | None = Field(
        None, ge=1, description="begin no further generation after so many evaluations; by layer, an equal share each"
    )
    max_seconds: float | None = Field(
        None, gt=0, description="the same after so many seconds of search; the result then depends on the machine"
    )
    seed: int = Field(0, ge=0, description="seed of the one random generator")
    certify: bool = Field(False, description="prove how far every layer is from the best grouping of its size")
    certify_seconds: float = Field(60.0, gt=0, description="most seconds that one layer's proof may take")


class StatisticsTextSettings(Section):
    """The text that statistics are gathered on, and how all texts are cut."""

    heading = "Text"

    calibration_text: str = Field(
        "embedded", description="'embedded', FILE.txt, FILE.jsonl or a folder of them; cut into disjoint parts"
    )
    calibration_tokens: int = Field(65536, ge=2, description="tokens the statistics are gathered on")
    masked_blocks: float | None = Field(
        None,
        ge=0,
        le=1,
        description="encoders: share of the statistics' blocks with mask tokens, as a masked-language-model head reads "
        "text; the others are plain, as embeddings read it [default: 0.5, without such a head 0]",
    )
    block_length: int = Field(256, ge=4, description="tokens per block")


class SearchTextSettings(Section):
    """The text that fitness functions run the model on."""

    heading = "Text"

    search_tokens: int = Field(16384, ge=2, description="tokens that fitness functions may run the model on")


class ReportedTextSettings(Section):
    """The text that results are reported on."""

    heading = "Text"

    evaluation_text: str | None = Field(
        None, description="other text to report on, whole [default: the held-out part of the calibration text]"
    )
    evaluation_part: Literal["held-out", "validation"] = Field(
        "held-out",
        description="report on the held-out part, or on validation: the end of the search part, to compare settings on",
    )
    evaluation_tokens: int = Field(65536, ge=2, description="held-out tokens that results are reported on")


class MachineSettings(Section):
    """In what, and where, the model runs."""

    heading = "The machine"

    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="dtype the model runs in")
    device: str = Field(
        "cpu",
        description="cpu, cuda, cuda:1, mps, or auto: a GPU if there is one; cuda:0,cuda:1: layers spread over these",
    )


class BatchSettings(Section):
    """How much of a text it runs on at once: that changes time and memory."""

    heading = "The machine"

    batch_blocks: int = Field(8, ge=1, description="blocks per forward pass")


class CheckpointSettings(Section):
    """What is written, and measured beside it."""

    heading = "The checkpoint"

    fill_slots: bool = Field(False, description="query slots to spare: heads served worst read a second group there")
    baseline: bool = Field(True, description="also measure neighbour grouping with the mean merge")
    materialize: bool = Field(True, description="write the converted checkpoint")
    layout: LayoutChoice = Field(
        "auto", description="form of the checkpoint: auto, stock, deci, ragged, mimo, openelm, anymodel"
    )
    target: TargetName | None = Field(
        None, description="engine that has to load it: transformers, vllm, llama.cpp, ctranslate2, mlx, any (all)"
    )


SECTIONS: tuple[type[Section], ...] = (
    ModelSettings,
    JoinSettings,
    SizeSettings,
    SideSettings,
    FormatSettings,
    ObjectiveSettings,
    MergeSettings,
    SearchSettings,
    StatisticsTextSettings,
    SearchTextSettings,
    ReportedTextSettings,
    MachineSettings,
    BatchSettings,
    CheckpointSettings,
)
