"""What the parts of a grouping JSON hold; ``gqasearch.grouping_document`` puts them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gqasearch.grouping import LayerGrouping
from gqasearch.second_reads import SecondReads, check_second_reads


@dataclass(frozen=True)
class ModelRecord:
    """The source model. ``revision`` and ``fingerprint`` ("sha256:...") are "" when not known."""

    id: str
    architecture: str
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    revision: str = ""
    fingerprint: str = ""


@dataclass(frozen=True)
class LayerRecord:
    """One layer: its partition, its error under the fitness, what is proven about it, and which heads read twice.

    Raises ``GroupingError`` for second reads of heads or groups that there are not.
    """

    grouping: LayerGrouping
    error: float | None = None
    proven_optimal: bool | None = None
    lower_bound: float | None = None
    second_reads: SecondReads = ()

    def __post_init__(self) -> None:
        check_second_reads(self.grouping, self.second_reads)


@dataclass(frozen=True)
class MergeRecord:
    """The merge that the grouping was searched for."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RefinementRecord:
    """What is fitted after the merge (``gqasearch.refining``)."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FitnessRecord:
    """The fitness function and the value of this grouping; lower is better."""

    name: str
    value: float
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchRecord:
    """The search method; ``evaluations``: distinct candidates that it evaluated."""

    method: str
    seed: int
    evaluations: int
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CalibrationRecord:
    """The calibration text, in words and by hash."""

    source: str
    tokens: int
    fingerprint: str

    @property
    def text(self) -> str:
        """The text in words, without the names of its documents."""
        return self.source.partition(": ")[0]
