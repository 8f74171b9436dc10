"""What a report on healing is made of: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gqasearch.reporting.data import Measurement, TextUse


@dataclass(frozen=True)
class HealingPoint:
    """One evaluation on the validation text, after ``tokens`` tokens of training."""

    step: int
    tokens: int
    kl: float
    perplexity: float


@dataclass(frozen=True)
class HeldOut:
    """A model on the reported text. ``kl``: nats per token to the parent, with its 95% interval over blocks of text."""

    perplexity: float
    kl: float
    kl_interval: tuple[float, float]
    kv_bytes_per_token: int


@dataclass(frozen=True)
class HealingRun:
    """One healed checkpoint. ``label``: its start, in words; runs that differ in their seed alone share it.

    ``tokens``: trained on. ``history``: the first point is the start, before any training. ``kept``: the point whose
    weights were kept; the last one unless training was stopped early.
    """

    label: str
    seed: int
    history: tuple[HealingPoint, ...]
    start: HeldOut
    healed: HeldOut
    tokens: int
    kept: HealingPoint

    def tokens_to(self, kl: float) -> float:
        """Tokens at the first evaluation whose KL is at most ``kl``; infinite where there is none."""
        return next((float(point.tokens) for point in self.history if point.kl <= kl), np.inf)


@dataclass(frozen=True, eq=False)
class HealingData:
    """All of a report on the healing of one parent.

    ``validation_perplexity``: of the parent on the text of the histories, None where it was not measured.
    Raises ``ValueError`` without a run, or for one without a history.
    """

    title: str
    parent: HeldOut
    runs: tuple[HealingRun, ...]
    measurement: Measurement
    texts: tuple[TextUse, ...]
    configuration: str
    environment: Mapping[str, str]
    validation_perplexity: float | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.runs or not all(run.history for run in self.runs):
            raise ValueError("a report on healing needs at least one run, and a history of every run")

    @cached_property
    def starts(self) -> dict[str, list[HealingRun]]:
        """Label -> its runs, one per seed, in the order given."""
        found: dict[str, list[HealingRun]] = {}
        for run in self.runs:
            found.setdefault(run.label, []).append(run)
        return found
