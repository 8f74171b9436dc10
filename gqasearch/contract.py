"""The evaluation contract: what is asked of a fitness that is bound to a model, and what it answers. Numpy only.

Searches, workers and reports all speak it. The kinds nest: a sum over pairs of heads is a sum over groups, and that is
a function of whole groupings. A value never depends on what is asked beside it, so it is the same whoever asks, and an
answer that was noted stands for the evaluation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias

import numpy as np

from gqasearch.group_errors import Group, GroupErrors, PairwiseErrors, SetErrors
from gqasearch.grouping import Grouping
from gqasearch.pairwise import FloatArray

Item: TypeAlias = Grouping | Group


class PreparedFitness(ABC):
    """A fitness bound to one model and text."""

    @abstractmethod
    def evaluate(self, groupings: Sequence[Grouping]) -> FloatArray:
        """One value per grouping, (N,); lower is better. Each value is independent of its neighbours."""

    def rest(self) -> None:  # noqa: B027 - most hold nothing large
        """Let go of what takes much memory and can be made again: the search is over for now."""


class PreparedTextFitness(PreparedFitness):
    """A fitness that runs every candidate on the search text, batch by batch, and so can run it on a part.

    ``batch_tokens``: tokens of every batch, (B,).
    """

    batch_tokens: tuple[int, ...]

    @abstractmethod
    def evaluate_batches(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        """As ``evaluate``, on these batches alone, (N,)."""

    def evaluate(self, groupings: Sequence[Grouping]) -> FloatArray:
        return self.evaluate_batches(groupings, range(len(self.batch_tokens)))

    def evaluate_refined(self, groupings: Sequence[Grouping]) -> FloatArray:
        """As ``evaluate``, after the context's refinement itself, which costs seconds to minutes each; asked only of
        the few finalists of a search, and only where something is refined.
        """
        return self.evaluate(groupings)


class PreparedGroupFitness(PreparedFitness):
    """A sum over layers and groups of a set function."""

    @cached_property
    def known(self) -> dict[int, dict[int, float]]:
        """Layer -> group, as a bit mask -> its error: all that were computed."""
        return defaultdict(dict)

    @abstractmethod
    def compute_group_error(self, layer: int, heads: Group) -> float:
        """Error of letting ``heads`` (ascending, two or more) of ``layer`` share one KV head."""

    def compute_group_errors(self, layer: int, groups: Sequence[Group]) -> Sequence[float]:
        """``compute_group_error`` of each of these; for a fitness that computes many at once faster than one by one.

        A value must have the same bits whatever groups are beside it.
        """
        return [self.compute_group_error(layer, heads) for heads in groups]

    def layer_errors(self, layer: int, num_heads: int) -> GroupErrors:
        """One layer's part of it, each group computed once."""
        return SetErrors(num_heads, partial(self.compute_group_errors, layer), self.known[layer], f"of layer {layer}")

    def group_errors(self, layer: int, groups: Sequence[Group]) -> list[float]:
        """Errors of many groups (ascending) of one layer's heads; 0 for a single head."""
        return self.layer_errors(layer, max(map(max, groups)) + 1).group_errors(groups)

    def group_error(self, layer: int, heads: Group) -> float:
        """Error of one group."""
        return self.group_errors(layer, [heads])[0]

    def layer_error(self, layer: int, groups: Sequence[Group]) -> float:
        """Sum over one layer's groups."""
        return sum(self.group_errors(layer, groups))

    def evaluate(self, groupings: Sequence[Grouping]) -> FloatArray:
        labels = np.array([[layer.labels for layer in grouping] for grouping in groupings], dtype=np.int64)
        _, layers, heads = labels.shape
        return sum(
            (self.layer_errors(layer, heads).evaluate(labels[:, layer]) for layer in range(layers)),
            start=np.zeros(len(groupings)),
        )


class PreparedPairwiseFitness(PreparedGroupFitness):
    """A set function that is a sum over pairs: cost(S) = sum_{i<j in S} D_ij / size of S."""

    @cached_property
    def _distances(self) -> dict[int, FloatArray]:
        return {}

    @abstractmethod
    def compute_distances(self, layer: int) -> FloatArray:
        """Symmetric (H, H), zero diagonal."""

    def distances(self, layer: int) -> FloatArray:
        """As ``compute_distances``, computed once per layer."""
        if layer not in self._distances:
            self._distances[layer] = self.compute_distances(layer)
        return self._distances[layer]

    def compute_group_error(self, layer: int, heads: Group) -> float:
        return PairwiseErrors(self.distances(layer)).group_error(heads)

    def layer_errors(self, layer: int, num_heads: int) -> GroupErrors:
        return PairwiseErrors(self.distances(layer))


@dataclass(frozen=True)
class Question:
    """What is asked, of many items at once, of the prepared ``fitness`` of this name.

    ``about``: whole groupings, groupings on some batches of the text (``detail``: which), groupings after the
    refinement, or groups of one layer (``detail``: which).
    """

    fitness: str
    about: Literal["whole", "batches", "refined", "groups"]
    detail: tuple[int, ...] = ()

    def of(self, prepared: Any, items: Sequence[Any]) -> list[float]:
        """The answers of ``prepared``: one per item, each with the same bits whatever items are beside it."""
        if self.about == "batches":
            found = prepared.evaluate_batches(items, self.detail)
        elif self.about == "refined":
            found = prepared.evaluate_refined(items)
        elif self.about == "groups":
            found = prepared.compute_group_errors(*self.detail, items)
        else:
            found = prepared.evaluate(items)
        return [float(value) for value in found]


Answer: TypeAlias = Callable[[Question, Sequence[Any]], Sequence[float]]


@dataclass(frozen=True)
class Facts:
    """What must be known of a prepared fitness that is asked elsewhere; ``batch_tokens``: () where it reads no text."""

    kind: Literal["text", "pairwise", "group", "model"]
    batch_tokens: tuple[int, ...] = ()

    @classmethod
    def of(cls, prepared: PreparedFitness) -> Facts:
        """The strongest of the contract's kinds that it fills."""
        if isinstance(prepared, PreparedTextFitness):
            return cls("text", prepared.batch_tokens)
        if isinstance(prepared, PreparedPairwiseFitness):
            return cls("pairwise")
        return cls("group" if isinstance(prepared, PreparedGroupFitness) else "model")


def answered(
    name: str, facts: Facts, answer: Answer, known: dict[int, dict[int, float]] | None = None
) -> PreparedFitness:
    """A fitness of these facts whose questions ``answer`` answers: workers do, or a log of what was asked before.

    ``known``: errors of groups that need not be asked for. Distances of every two heads are no question.
    """
    if facts.kind == "text":
        return _AnsweredText(name, answer, facts.batch_tokens)
    if facts.kind == "group":
        return _AnsweredGroups(name, answer, known)
    if facts.kind == "model":
        return _Answered(name, answer)
    raise TypeError(f"fitness {name} is known by its distances")


class _Answered(PreparedFitness):
    def __init__(self, name: str, answer: Answer) -> None:
        self.name, self.answer = name, answer

    def evaluate(self, groupings: Sequence[Grouping]) -> FloatArray:
        return np.array(self.answer(Question(self.name, "whole"), groupings), dtype=np.float64)


class _AnsweredText(_Answered, PreparedTextFitness):
    def __init__(self, name: str, answer: Answer, batch_tokens: tuple[int, ...]) -> None:
        super().__init__(name, answer)
        self.batch_tokens = batch_tokens

    def evaluate_batches(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        return np.array(self.answer(Question(self.name, "batches", tuple(batches)), groupings), dtype=np.float64)

    def evaluate_refined(self, groupings: Sequence[Grouping]) -> FloatArray:
        return np.array(self.answer(Question(self.name, "refined"), groupings), dtype=np.float64)


class _AnsweredGroups(PreparedGroupFitness):
    def __init__(self, name: str, answer: Answer, known: dict[int, dict[int, float]] | None) -> None:
        self.name, self.answer = name, answer
        if known is not None:
            self.known = known

    def compute_group_error(self, layer: int, heads: Group) -> float:
        return self.compute_group_errors(layer, [heads])[0]

    def compute_group_errors(self, layer: int, groups: Sequence[Group]) -> Sequence[float]:
        return self.answer(Question(self.name, "groups", (layer,)), groups)

    def layer_errors(self, layer: int, num_heads: int) -> GroupErrors:
        ask = partial(self.answer, Question(self.name, "groups", (layer,)))
        return SetErrors(num_heads, ask, self.known[layer], f"of layer {layer}")
