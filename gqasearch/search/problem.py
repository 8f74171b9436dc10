"""What a search method is given: candidates' space, objectives, and nothing about models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping

FloatArray = NDArray[np.float64]
Objective = Callable[[Sequence[Grouping]], FloatArray]


@dataclass(frozen=True)
class Candidate:
    """A grouping and its objective values, (M,); lower is better."""

    grouping: Grouping
    values: tuple[float, ...]


@dataclass(frozen=True)
class Generation:
    """One step of a search, as history, progress and resume see it.

    ``index`` counts from 0; ``evaluations``: distinct candidates evaluated so far; ``best``: lowest
    first objective met so far; ``front``: the non-dominated candidates met (just ``best`` for one
    objective); ``state``: gives what ``search(..., state=...)`` needs to go on from here with the same
    bits, JSON-able, built only when called.
    """

    index: int
    evaluations: int
    best: Candidate
    front: tuple[Candidate, ...]
    state: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Problem:
    """Minimise ``objectives`` over groupings of ``num_layers`` layers within ``budget``.

    ``objectives``: name -> function from N groupings to (N,) values. ``free_counts``: the number of
    groups of every layer is free (``budget.counts`` is then only the starting point), as in a Pareto
    search with the KV ratio as an objective. ``layer_objectives``: for an objective that is a sum over
    layers, one function per layer from one-layer groupings to (N,); None otherwise.
    """

    objectives: dict[str, Objective]
    budget: Budget
    free_counts: bool = False
    layer_objectives: tuple[Objective, ...] | None = None

    @property
    def num_layers(self) -> int:
        return len(self.budget.counts)

    @property
    def num_heads(self) -> int:
        return self.budget.num_heads

    @property
    def is_separable(self) -> bool:
        """True when every layer can be searched by itself."""
        return self.layer_objectives is not None and not self.budget.movable and not self.free_counts

    def layer_problem(self, layer: int) -> Problem:
        """The problem of one layer of a separable problem; its groupings have one layer."""
        if self.layer_objectives is None or not self.is_separable:
            raise ValueError("this problem's layers cannot be searched one by one")
        budget = Budget(
            counts=(self.budget.counts[layer],),
            num_heads=self.budget.num_heads,
            smallest_group=self.budget.smallest_group,
            largest_group=self.budget.largest_group,
        )
        return Problem({next(iter(self.objectives)): self.layer_objectives[layer]}, budget)

    def evaluate(self, groupings: Sequence[Grouping]) -> list[Candidate]:
        """All objectives of these groupings. Refuses non-finite values: comparisons with NaN lie."""
        columns = [np.asarray(objective(groupings), dtype=np.float64) for objective in self.objectives.values()]
        for name, column in zip(self.objectives, columns, strict=True):
            if not np.isfinite(column).all():
                row = int(np.flatnonzero(~np.isfinite(column))[0])
                raise UserError(f"objective {name!r} gave {column[row]} for grouping {groupings[row].layers}")
        rows = np.stack(columns, axis=1).tolist()
        return [Candidate(g, tuple(row)) for g, row in zip(groupings, rows, strict=True)]
