"""What workers are asked of many items at once: a method of a prepared fitness and its further arguments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gqasearch.fitness import (
    PreparedFitness,
    PreparedGroupFitness,
    PreparedPairwiseFitness,
    PreparedTextFitness,
)
from gqasearch.grouping import Grouping

Item = Grouping | tuple[int, ...]


@dataclass(frozen=True)
class Question(ABC):
    """Asked of the prepared fitness of this name."""

    fitness: str

    @abstractmethod
    def values(self, prepared: Any, items: Sequence[Any]) -> Sequence[float]:
        """One per item, each with the same bits whatever items are beside it."""


@dataclass(frozen=True)
class Whole(Question):
    """``evaluate`` of groupings."""

    def values(self, prepared: PreparedFitness, items: Sequence[Grouping]) -> Sequence[float]:
        return [float(value) for value in prepared.evaluate(items)]


@dataclass(frozen=True)
class OnBatches(Question):
    """``evaluate_batches`` of groupings."""

    batches: tuple[int, ...]

    def values(self, prepared: PreparedTextFitness, items: Sequence[Grouping]) -> Sequence[float]:
        return [float(value) for value in prepared.evaluate_batches(items, self.batches)]


@dataclass(frozen=True)
class Refined(Question):
    """``evaluate_refined`` of groupings."""

    def values(self, prepared: PreparedTextFitness, items: Sequence[Grouping]) -> Sequence[float]:
        return [float(value) for value in prepared.evaluate_refined(items)]


@dataclass(frozen=True)
class OfGroups(Question):
    """``compute_group_errors`` of groups of one layer's heads."""

    layer: int

    def values(self, prepared: PreparedGroupFitness, items: Sequence[tuple[int, ...]]) -> Sequence[float]:
        return [float(value) for value in prepared.compute_group_errors(self.layer, items)]


@dataclass(frozen=True)
class Facts:
    """What the parent must know of a fitness that workers prepared; ``batch_tokens``: () where it reads no text."""

    kind: Literal["text", "pairwise", "group", "model"]
    batch_tokens: tuple[int, ...] = ()


def facts_of(prepared: PreparedFitness) -> Facts:
    """The strongest of the contract's kinds that it fills."""
    if isinstance(prepared, PreparedTextFitness):
        return Facts("text", prepared.batch_tokens)
    if isinstance(prepared, PreparedPairwiseFitness):
        return Facts("pairwise")
    return Facts("group" if isinstance(prepared, PreparedGroupFitness) else "model")
