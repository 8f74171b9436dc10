"""What a report is made of: plain data, filled by whoever ran something.

A single run and a comparison of many runs are the same thing here: one parent, one or more results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gqasearch.grouping import LayerGrouping
from gqasearch.grouping_document import GroupingDocument
from gqasearch.reporting.continuations import Generated
from gqasearch.reporting.rounded_rows import RoundedResult
from gqasearch.reporting.text_table import TextTable
from gqasearch.separate_grouping import AnyGrouping, SeparateGrouping

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]
SIMILARITY_WORDS = "cosine of two heads' activations at the same token, before RoPE, averaged over tokens"


@dataclass(frozen=True)
class LayerPicture:
    """One layer of a result.

    ``error``: of its groups together, where the result's fitness is a sum over layers. ``proven_optimal``:
    no other grouping into so many groups has a lower one. ``lower_bound``: none has an error below this. ``name``: its
    number, and which of its heads; its place in the result if "".
    """

    grouping: LayerGrouping
    error: float | None = None
    proven_optimal: bool = False
    lower_bound: float | None = None
    name: str = ""

    @property
    def gap(self) -> float | None:
        """How much lower the error of another grouping may be, as a share of this one; None when not known."""
        if self.error is None or self.lower_bound is None:
            return None
        return (self.error - self.lower_bound) / self.error if self.error else 0.0


def layer_pictures(document: GroupingDocument) -> tuple[LayerPicture, ...]:
    """Of every partition of a grouping."""
    return tuple(
        LayerPicture(layer.grouping, layer.error, bool(layer.proven_optimal), layer.lower_bound, name)
        for name, layer in zip(document.layer_names, document.layers, strict=True)
    )


@dataclass(frozen=True)
class HistoryPoint:
    """The state of a search after a generation; ``best`` is the lowest fitness so far."""

    generation: int
    evaluations: int
    best: float
    seconds: float

    @property
    def words(self) -> str:
        """For a line of progress."""
        return f"best {self.best:.5g}  generation {self.generation}  {self.evaluations:,} evaluations"


@dataclass(frozen=True)
class History:
    """One line of a convergence plot; a run has one, "whole model", also where it goes layer by layer."""

    label: str
    points: tuple[HistoryPoint, ...]


@dataclass(frozen=True)
class MethodResult:
    """A converted model, measured on the held-out text.

    ``label``: how the heads were grouped, in words, without the merge; runs of one method at several
    KV ratios share it. ``method``: the search method's name. ``fitness``: what it minimised, None for a
    baseline. ``kl``: nats per token to the parent; of a model without a head NaN, as its perplexity is, and
    ``hidden_error`` stands in its place. ``kv_bytes_per_token``: measured from a real cache,
    or as an encoder computes them. ``embedding_cosine``: of an encoder's sentence embeddings to the parent's.
    ``seconds``: of the whole run, restarts included.
    """

    label: str
    method: str
    merge: str
    fitness: str | None
    kv_ratio: float
    kv_heads_total: int
    perplexity: float
    kl: float
    kv_bytes_per_token: int
    parameters: int
    seconds: float
    layers: tuple[LayerPicture, ...] = ()
    history: tuple[History, ...] = ()
    embedding_cosine: float = math.nan
    hidden_error: float = math.nan

    @property
    def name(self) -> str:
        """Grouping and merge: what sets this result apart from others at its KV ratio."""
        return f"{self.label} + {self.merge}"

    @property
    def is_baseline(self) -> bool:
        """True for the GQA paper's recipe: consecutive heads, mean merge (arXiv 2305.13245)."""
        return self.method == "neighbour" and self.merge == "mean"


@dataclass(frozen=True)
class ParentResult:
    """The unconverted model, measured the same way. ``kv_value_bits``: of a number as the checkpoint stores it, which
    KV bytes are counted in; None where that was not noted.
    """

    perplexity: float
    kv_heads_total: int
    kv_bytes_per_token: int
    parameters: int
    kv_value_bits: int | None = None


@dataclass(frozen=True, eq=False)
class Similarity:
    """Cosine of the heads' keys and of their values, (L, H, H) each; ``what`` says which vectors were compared."""

    key: FloatArray
    value: FloatArray
    what: str = SIMILARITY_WORDS

    def __post_init__(self) -> None:
        shape = self.key.shape
        if len(shape) != 3 or shape[1] != shape[2] or self.value.shape != shape:
            raise ValueError(f"key and value must be (L, H, H) alike, got {shape} and {self.value.shape}")

    def figure(self, grouping: AnyGrouping | None = None) -> Figure:
        """A heat map per layer; with a ``grouping`` heads that share stand side by side, in a frame."""
        from gqasearch.reporting.plots import similarity_figure

        sides = grouping.sides if isinstance(grouping, SeparateGrouping) else grouping
        return similarity_figure(self, () if sides is None else sides.layers)


@dataclass(frozen=True)
class ParetoFront:
    """The non-dominated candidates of a search: names of the M objectives, N points of M values.

    ``chosen``: index of the point that was written to grouping.json. ``dominated``: other points, to show beside them.
    ``labels``: a word at each point, none if empty.
    """

    objectives: tuple[str, ...]
    points: tuple[tuple[float, ...], ...]
    chosen: int | None = None
    dominated: tuple[tuple[float, ...], ...] = ()
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.objectives) < 2 or any(
            len(point) != len(self.objectives) for point in self.points + self.dominated
        ):
            raise ValueError(f"a front needs points of {len(self.objectives)} (two or more) values each")


@dataclass(frozen=True)
class Measurement:
    """How perplexity and KL were measured; ``convention`` says in a sentence what is averaged over what."""

    convention: str
    block_length: int
    targets: int


@dataclass(frozen=True)
class TextUse:
    """One text and what it was used for; ``role`` is "calibration", "search", "held-out" or "validation"."""

    role: str
    source: str
    tokens: int
    used_for: str


@dataclass(frozen=True)
class ReportData:
    """All of a report. ``model`` and ``environment`` are shown as they are, in order. ``decision``: what was compared
    for a budget in bytes.

    Raises ``ValueError`` when two results have one name at one KV budget: a table could not tell them apart.
    """

    title: str
    model: Mapping[str, str]
    parent: ParentResult
    results: tuple[MethodResult, ...]
    measurement: Measurement
    texts: tuple[TextUse, ...]
    configuration: str
    environment: Mapping[str, str]
    similarity: Similarity | None = None
    front: ParetoFront | None = None
    decision: TextTable | None = None
    warnings: tuple[str, ...] = field(default=())
    rounded: tuple[RoundedResult, ...] = ()
    generated: Generated | None = None

    def __post_init__(self) -> None:
        seen: set[tuple[str, int]] = set()
        for result in self.results:
            key = (result.name, result.kv_heads_total)
            if key in seen:
                raise ValueError(f"two results are named {result.name!r} with {result.kv_heads_total} KV heads")
            seen.add(key)
