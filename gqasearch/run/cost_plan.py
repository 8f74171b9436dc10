"""What a run will take, counted before it: seconds and memory by stage, and disk.

Everything that is counted stands here. ``Sizes`` are facts of the model and the settings, ``Rates`` are measured here
in a moment, and the numbers in capitals are fitted to runs: ``python -m experiments.benchmarks.scale`` prints
planned beside measured. An estimate holds within a factor of two where a machine has nothing else to do.

    D hidden size   H KV heads   d head_dim   V vocabulary   N tokens of a text   L layers
    pass  one decoder layer on one token, in the dtype of the run: what all else is put in terms of where it can be
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gqasearch.basis.attention_cost import TOKENS as BASIS_LENGTH
from gqasearch.basis.balance import BATCH_BLOCKS as BASIS_BLOCKS

# Passes of a text through a decoder layer, by stage.
CALIBRATION_PASSES = 1.2  # the layer, with attention maps that are written out
REFINE_PASSES = 2.6  # the parent's stream, the converted one's, and that one up to its attention
# Multiply-adds beyond the passes, as multiples of what is named.
MAP_ENTRY = 500.0  # of an entry of attention maps: elementwise work on it, several times
MOMENTS = 2.0  # of D^2 per token: x x^T, and that of what attention reads
RIDGE = 4.0  # of D^2 per token: the moments of two regressions
STEP_ENTRY = 250.0  # of an entry of attention maps in a step of descent
JOINT_PASSES = 4.0  # of the whole model, of a step of all layers: the parent's, forward, and twice as much backward
BASIS_STEP, BASIS_ENTRY = 6.0, 250.0  # of head_dim, and more, per entry of attention maps in a step of the basis
DESCENT = 3.0  # of the values of attention per token of a step: forward, and twice as much backward
BIND = 12.0  # of D^3: Gram matrices of heads and factors of moments, in float64
GROUP = 8.0  # of (n d)^3 for a group of n heads: eigenvalues of values and keys, in float64
HEAD = 1.0  # the logits' softmax and KL over the product itself
# Seconds of calls, whatever the size.
GROUP_SECONDS = 2e-4
CANDIDATE_SECONDS = 5e-5  # a partition of those that a search may look at; most end long before that
LAYER_SECONDS = 0.05  # of every stage that walks the layers
STEP_SECONDS = 8e-3  # a step of descent
LOAD_SECONDS = 1.0
# Bytes a second of files that are written and read back.
DISK = 3e8

# Memory: copies of a batch's attention maps and logits, and of matrices, that are there at once.
CALIBRATION_MAPS, REFINE_MAPS, LOGITS = 20.0, 4.0, 5.0
MOMENT_MATRICES = 3.0  # D x D in float64, calibration
BOUND_MATRICES = 10.5  # D x D in float64, a layer that the merge is bound to, with its statistics
ATTENTION_COPIES = 8.0  # of attention's values in float32: weights, gradients, Adam's moments, start and end
JOINT_COPIES = 6.0  # of attention's values in float32, of all layers: weights, by head, gradients, Adam's moments
JOINT_VALUES, JOINT_LOGITS = 40.0, 6.0  # per token: numbers of hidden size in every layer, and copies of logits
STREAMS = 4  # values per token and hidden dimension that a refinement keeps
BASIS_MAPS, BASIS_COPIES = 10.0, 9.0  # one head's attention maps in float64; queries, keys and values in float32
SAMPLE = 256  # rows of hidden states in a layer's statistics


@dataclass(frozen=True)
class Sizes:
    """What a run's cost is counted from.

    ``layer_values``, ``other_values``: parameters of a decoder layer, and of embeddings and output head.
    ``value_bytes``: of one number in the run's dtype. ``stored_bytes``: of the source's weights. ``room`` and
    ``stream_room``: bytes of weights, and of one stream of hidden states, that stay in memory. ``groups``: distinct
    groups of a layer that the search asks an error of; ``group_heads``: heads of one of them. ``candidates``:
    partitions that it goes through. ``model_tokens``: tokens that it makes the model read. ``steps``: of descent per
    layer, on ``step_tokens`` each; ``joint_steps``: of all layers together, on ``joint_tokens`` each. ``models``: how
    many are measured at the end. ``rounded_steps``: as ``steps``, once the basis is there. ``option_tokens``: that the
    model reads to compare caches of so many bytes. ``basis_steps``: of keys per layer, beside four times as many of
    values, on ``basis_step_tokens`` each. Numbers of tokens are 0 for what is not done.
    """

    layers: int
    hidden: int
    query_heads: int
    head_dim: int
    layer_values: int
    other_values: int
    vocabulary: int
    value_bytes: int
    stored_bytes: int
    room: int
    stream_room: int
    block_length: int
    batch_blocks: int
    calibration_tokens: int
    refine_tokens: int
    evaluation_tokens: int
    groups: int
    group_heads: float
    candidates: int
    model_tokens: int
    steps: int
    step_tokens: int
    joint_steps: int
    joint_tokens: int
    models: int
    materialize: bool
    basis_tokens: int = 0
    basis_steps: int = 0
    basis_step_tokens: int = 0
    rounded_steps: int = 0
    option_tokens: int = 0

    @property
    def attention_values(self) -> int:
        """Parameters of a layer's attention, every query head with keys and values of its own: 4 D^2 mostly."""
        return 4 * self.hidden * self.query_heads * self.head_dim

    @property
    def batch_tokens(self) -> int:
        return self.batch_blocks * self.block_length


@dataclass(frozen=True)
class Rates:
    """Seconds, as this machine takes them with the threads of the run.

    ``layer``: one decoder layer on one token. ``product``: a multiply-add of a wide float32 product.
    ``factor``: the same of small float64 eigenvalue problems, n^3 each. ``base``: bytes that the process has
    before the work.
    """

    layer: float
    product: float
    factor: float
    base: int


@dataclass(frozen=True)
class Stage:
    """``seconds`` and the peak of memory in ``bytes`` that are expected of it."""

    name: str
    seconds: float
    bytes: float


@dataclass(frozen=True)
class Plan:
    """``stages`` in order; ``disk``: bytes of the run folder and, apart, of the cache, at their most."""

    stages: tuple[Stage, ...]
    folder_disk: float
    cache_disk: float

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def largest(self) -> Stage:
        """The stage that needs most memory."""
        return max(self.stages, key=lambda stage: stage.bytes)

    def without(self, names: Collection[str]) -> Plan:
        """The same with the stages of these names done already."""
        return replace(self, stages=tuple(stage for stage in self.stages if stage.name not in names))

    def record(self) -> dict[str, Any]:
        """As ``metrics.json`` has it."""
        return {
            "seconds": {stage.name: round(stage.seconds, 3) for stage in self.stages},
            "peak_bytes": {stage.name: round(stage.bytes) for stage in self.stages},
            "disk_bytes": round(self.folder_disk + self.cache_disk),
        }


def make_plan(sizes: Sizes, rates: Rates) -> Plan:
    """The stages of a run that begins at the beginning."""
    seconds, memory = stage_seconds(sizes, rates), stage_bytes(sizes)
    stages = [Stage(name, seconds[name], rates.base + memory[name]) for name in seconds]
    return Plan(tuple(stages), folder_bytes(sizes), cache_bytes(sizes))


def stage_seconds(s: Sizes, rates: Rates) -> Mapping[str, float]:
    """Stage -> seconds, in the order of the stages; none for what is not done."""
    square = s.hidden**2
    walk = s.layers * LAYER_SECONDS
    head = HEAD * rates.layer * s.vocabulary * s.hidden / s.layer_values  # per token
    whole = s.layers * rates.layer + head
    bind = BIND * s.hidden**3 * rates.product
    group = GROUP_SECONDS + GROUP * (s.group_heads * s.head_dim) ** 3 * rates.factor
    per_token = REFINE_PASSES * rates.layer + RIDGE * square * rates.product
    entries = s.query_heads * s.block_length  # of attention maps, per token
    statistics = CALIBRATION_PASSES * rates.layer + (MOMENTS * square + MAP_ENTRY * entries) * rates.product
    step = STEP_SECONDS + s.step_tokens * (DESCENT * s.attention_values + STEP_ENTRY * entries) * rates.product
    maps = s.basis_step_tokens * s.query_heads * BASIS_LENGTH
    basis_step = 5 * STEP_SECONDS + maps * (BASIS_STEP * s.head_dim + BASIS_ENTRY) * rates.product
    searched = s.groups * group + (bind if s.groups else 0.0)
    parts = {
        "load": LOAD_SECONDS + s.stored_bytes / DISK,
        "calibration": s.calibration_tokens and walk + s.layers * s.calibration_tokens * statistics,
        "format": s.option_tokens * whole,
        "search": s.layers * searched + s.candidates * CANDIDATE_SECONDS + s.model_tokens * whole,
        "refine": s.refine_tokens
        and walk
        + s.layers * (s.refine_tokens * per_token + s.steps * step + bind)
        + s.joint_steps * s.joint_tokens * JOINT_PASSES * whole,
        "basis": s.basis_tokens and walk + s.layers * (s.basis_tokens * statistics + s.basis_steps * basis_step),
        "rounded": s.rounded_steps and walk + s.layers * (s.refine_tokens * per_token + s.rounded_steps * step),
        "convert": s.materialize and walk + 2 * s.stored_bytes / DISK,
        "evaluation": s.models * s.evaluation_tokens * whole,
    }
    return {name: float(taken) for name, taken in parts.items() if taken}


def stage_bytes(s: Sizes) -> Mapping[str, float]:
    """Stage -> bytes beyond those of the process before the work."""
    square = 8.0 * s.hidden**2
    unit = max(s.layer_values, s.vocabulary * s.hidden) * s.value_bytes
    values = (s.layers * s.layer_values + s.other_values) * s.value_bytes
    weights = min(values, max(s.room, unit))
    batch = s.batch_tokens * s.hidden * 4.0
    maps = 4.0 * s.batch_blocks * s.query_heads * s.block_length**2
    logits = LOGITS * 4 * s.batch_tokens * s.vocabulary
    streams = min(s.stream_room, s.refine_tokens * s.hidden * 4.0)
    return {
        "load": float(weights),
        "calibration": weights
        + min(2 * s.stream_room, 2 * s.calibration_tokens * s.hidden * s.value_bytes)
        + MOMENT_MATRICES * square
        + CALIBRATION_MAPS * maps
        + 4 * batch,
        "format": weights + BOUND_MATRICES * square + logits,
        "search": weights + BOUND_MATRICES * square + (logits if s.model_tokens else 0),
        "refine": max(
            weights
            + STREAMS * streams
            + max(BOUND_MATRICES * square, ATTENTION_COPIES * 4 * s.attention_values)  # merged, then refined
            + REFINE_MAPS * maps,
            values + _joint_bytes(s) if s.joint_steps else 0.0,
        ),
        "basis": weights
        + BASIS_COPIES * 4.0 * s.basis_tokens * s.query_heads * s.head_dim
        + BASIS_MAPS * 8.0 * BASIS_BLOCKS * s.block_length**2,
        "rounded": weights + STREAMS * streams + ATTENTION_COPIES * 4 * s.attention_values + REFINE_MAPS * maps,
        "convert": weights + 3.0 * unit,
        "evaluation": 2.0 * weights + logits + 4 * batch,
    }


def _joint_bytes(s: Sizes) -> float:
    """Bytes of a step of all layers together, besides the model."""
    per_token = JOINT_VALUES * s.layers * s.hidden + JOINT_LOGITS * s.vocabulary
    return 4.0 * (JOINT_COPIES * s.layers * s.attention_values + s.joint_tokens * per_token)


def folder_bytes(s: Sizes) -> float:
    """In the run folder: refined layers, hidden states that do not fit into memory, the checkpoint."""
    refined = s.layers * s.attention_values * 4.0 * (bool(s.refine_tokens) + bool(s.basis_tokens))
    stream = s.refine_tokens * s.hidden * 4.0
    hidden = STREAMS * stream if stream > s.stream_room else 0.0
    return refined + max(hidden, s.stored_bytes if s.materialize else 0.0)


def cache_bytes(s: Sizes) -> float:
    """In the cache: statistics of every layer, and hidden states of two levels while they are gathered."""
    if not s.calibration_tokens:
        return 0.0
    stream = s.calibration_tokens * s.hidden * s.value_bytes
    return s.layers * s.hidden * (16.0 * s.hidden + 4.0 * SAMPLE) + (2.0 * stream if stream > s.stream_room else 0.0)
