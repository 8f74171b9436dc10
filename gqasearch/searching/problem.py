"""What a search method is given: candidates' space, objectives, and nothing about models."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gqasearch.budget import Budget
from gqasearch.contract import PreparedTextFitness
from gqasearch.errors import UserError
from gqasearch.group_errors import GroupErrors
from gqasearch.grouping import Grouping

FloatArray = NDArray[np.float64]
Objective = Callable[[Sequence[Grouping]], FloatArray]

# The value of a candidate that could not be evaluated: finite, as a search's state must be, and worse than any other.
FAILED = sys.float_info.max


@dataclass(frozen=True)
class Candidate:
    """A grouping and its objective values, (M,); lower is better.

    ``lower_bounds``: for every layer a number below which no partition into as many groups can have its
    error, (L,), from a method that proves something; () from all others. ``final``: ``Problem.final`` of it, where the
    method asked for that.
    """

    grouping: Grouping
    values: tuple[float, ...]
    lower_bounds: tuple[float, ...] = ()
    final: float | None = None


@dataclass(frozen=True)
class Generation:
    """One step of a search, as history, progress and resume see it.

    ``index`` counts from 0; ``evaluations``: distinct candidates evaluated so far; ``best``: lowest
    first objective met so far; ``front``: the non-dominated candidates met (just ``best`` for one
    objective). ``spared``: generations before it that were not needed, of as many as there are at most: of layers that
    ended early.
    """

    index: int
    evaluations: int
    best: Candidate
    front: tuple[Candidate, ...]
    spared: int = 0


class Clock:
    """Seconds of a search, read once for every generation, so that whatever asks between two is told the same.

    ``known``: of the generations that were made before the search was stopped. They are told again, so a search that
    ends by time ends where it did.
    """

    def __init__(self, known: Sequence[float] = ()) -> None:
        self.seconds = 0.0
        self._known = list(reversed(known))
        self._begun = time.monotonic()

    def tick(self) -> None:
        """A generation is over."""
        if self._known:
            self.seconds = self._known.pop()
            self._begun = time.monotonic() - self.seconds
        else:
            self.seconds = round(time.monotonic() - self._begun, 3)  # as the history has it


def _make(_key: str, make: Callable[[], Any]) -> Any:
    return make()


@dataclass(frozen=True)
class Problem:
    """Minimise ``objectives`` over groupings of ``num_layers`` layers within ``budget``.

    ``objectives``: name -> function from N groupings to (N,) values. ``free_counts``: the number of
    groups of every layer is free (``budget.counts`` is then only the starting point), as in a Pareto
    search with the KV ratio as an objective. ``layer_errors``: when the first objective is a sum over
    layers and groups, (L,) of what it sums (and then the second objective, if any, is the KV ratio); None
    otherwise. ``similarity`` (L, H, H) and ``norms`` (L, H) describe the heads, and ``guide`` is a cheap error of
    every layer, (L,), that the first objective more or less follows; for methods that ask for them.
    ``partial``: the first objective on part of its text, where it is measured on text. ``final``: the first objective
    as it will be in the end, where ``objectives`` has only what stands in for it: too dear for more than a few.
    ``recall``: key, function -> what that gives (JSON-able), or gave before the search was stopped: for work of a
    method's own that depends on time or takes long.
    """

    objectives: dict[str, Objective]
    budget: Budget
    free_counts: bool = False
    layer_errors: tuple[GroupErrors, ...] | None = None
    similarity: FloatArray | None = None
    norms: FloatArray | None = None
    guide: tuple[GroupErrors, ...] | None = None
    partial: PreparedTextFitness | None = None
    final: Objective | None = None
    clock: Clock = field(default_factory=Clock)
    recall: Callable[[str, Callable[[], Any]], Any] = _make

    @property
    def num_layers(self) -> int:
        return len(self.budget.counts)

    @property
    def num_heads(self) -> int:
        return self.budget.num_heads

    @property
    def is_separable(self) -> bool:
        """True when every layer can be searched by itself, its number of groups given."""
        return self.layer_errors is not None and not self.budget.movable and not self.free_counts

    def layer_problem(self, layer: int, *, free_counts: bool = False) -> Problem:
        """The problem of one layer, for a first objective that is a sum; its groupings have one layer.

        ``free_counts``: over every number of groups, with that number as the second objective.
        """
        if self.layer_errors is None:
            raise ValueError("this problem's layers cannot be searched one by one")
        errors = self.layer_errors[layer]
        objectives: dict[str, Objective] = {next(iter(self.objectives)): errors.objective}
        if free_counts:
            objectives["kv-heads"] = kv_heads
        rows = slice(layer, layer + 1)
        return Problem(
            objectives,
            replace(self.budget, counts=(self.budget.counts[layer],), movable=False),
            free_counts,
            (errors,),
            None if self.similarity is None else self.similarity[rows],
            None if self.norms is None else self.norms[rows],
            clock=self.clock,
            recall=lambda key, make: self.recall(f"layer {layer}, {key}", make),
        )

    def evaluate(self, groupings: Sequence[Grouping]) -> list[Candidate]:
        """All objectives of these groupings. Refuses non-finite values: comparisons with NaN lie."""
        columns: dict[str, FloatArray] = {}
        for name, objective in self.objectives.items():
            columns[name] = objective(groupings)
        return _candidates(groupings, columns)

    def evaluate_on(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> list[Candidate]:
        """As ``evaluate``, the first objective on these batches of its text alone."""
        if self.partial is None:
            raise ValueError("the first objective of this problem is not measured on text")
        first, *others = self.objectives
        columns = {first: self.partial.evaluate_batches(groupings, batches)}
        return _candidates(groupings, columns | {name: self.objectives[name](groupings) for name in others})

    def evaluate_final(self, groupings: Sequence[Grouping]) -> list[float]:
        """``final`` of these groupings; refuses non-finite values."""
        if self.final is None:
            raise ValueError("the first objective of this problem is final already")
        (name, *_) = self.objectives
        return [found.values[0] for found in _candidates(groupings, {f"final {name}": self.final(groupings)})]


def _candidates(groupings: Sequence[Grouping], columns: dict[str, FloatArray]) -> list[Candidate]:
    """``columns``: objective -> values, (N,)."""
    for name, values in columns.items():
        column = np.asarray(values, dtype=np.float64)
        if not np.isfinite(column).all():
            row = int(np.flatnonzero(~np.isfinite(column))[0])
            raise UserError(f"objective {name!r} gave {column[row]} for grouping {groupings[row].layers}")
    rows = np.stack([np.asarray(values, dtype=np.float64) for values in columns.values()], axis=1).tolist()
    return [Candidate(g, tuple(row)) for g, row in zip(groupings, rows, strict=True)]


def kv_heads(groupings: Sequence[Grouping]) -> FloatArray:
    """Groups summed over layers, as an objective, (N,)."""
    return np.array([grouping.kv_heads_total for grouping in groupings], dtype=np.float64)
