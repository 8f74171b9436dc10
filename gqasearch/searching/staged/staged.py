"""Staged whole-model evolution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gqasearch.errors import UserError
from gqasearch.searching._base import HeadFact, SearchMethod
from gqasearch.searching.drive import generations_of
from gqasearch.searching.problem import Generation, Problem
from gqasearch.searching.staged.staged_run import StagedRun

# The smallest value of every number among the parameters.
LEAST: dict[str, float] = {
    "population": 1,
    "offspring": 1,
    "generations": 0,
    "patience": 1,
    "first_tokens": 1,
    "reduction": 2,
    "crossover_rate": 0,
    "switch": 0,
    "swap": 0,
    "move": 0,
    "merge_split": 0,
    "sensitivity_levels": 0,
    "finalists": 0,
    "max_seconds": 0,
}


# Survivors where the user names no number: of one objective, and of several.
POPULATION = 4
FRONT_POPULATION = 24


@dataclass(frozen=True)
class Staged(SearchMethod):
    """(mu + lambda) evolution of all layers together, on an objective that runs the converted model.

    A generation's ``offspring`` are run on ``first_tokens`` tokens, drawn anew and the same for all of them; the best
    1 / ``reduction`` of them on ``reduction`` times as many, and so on, the last on the whole search text, where
    all survivors were measured too (EvoPress, section 3: sums of layer errors misorder models).
    Survival is by rank, or NSGA-II's with the KV ratio as second objective; of ``population`` candidates (None: 4, or
    24 with several objectives, where a front needs the room).

    Starts: partitions that a cheap error of the merge (``guide``) finds best for every number of groups; the budget
    split evenly, exactly by that error, and exactly by the error times what one layer alone was measured to do to
    the model on ``first_tokens``, at ``sensitivity_levels`` numbers of groups a layer (0: not measured): level by
    level, and the mean of a layer.

    A child comes from an exchange of layers with chance ``crossover_rate``, else from mutation: weights ``switch``
    (one layer gets a group, another gives one), ``swap``, ``move``, ``merge_split``. Where layers keep their counts
    nothing is switched. Layers are drawn by how little it costs to run the model from there on.
    Ends after ``generations``, after ``patience`` of them without a new best (or front), or where a
    generation begins more than ``max_seconds`` after the start: then, and only then, a result depends on the machine.
    Where the objective only stands in for what the refined model will lose, the ``finalists`` best survivors and the
    guide's own split are then refined as the result will be, and the best of them is the result (0: the objective
    decides; so it does where there are several objectives). A run's own ``max_evaluations`` and ``max_seconds``, which
    stop any method, stop this one before that.
    """

    name: ClassVar[str] = "staged"
    reference: ClassVar[str] = "https://arxiv.org/abs/2410.14649"
    summary: ClassVar[str] = "whole-model evolution on KL or perplexity, many candidates on few tokens, few on many"
    multi_objective: ClassVar[bool] = True
    by_layer: ClassVar[bool] = False
    on_parts: ClassVar[bool] = True
    needs: ClassVar[frozenset[HeadFact]] = frozenset({"guide"})

    population: int | None = None
    offspring: int = 32
    generations: int = 100
    patience: int = 20
    first_tokens: int = 1024
    reduction: int = 4
    crossover_rate: float = 0.2
    switch: float = 1.0
    swap: float = 1.0
    move: float = 1.0
    merge_split: float = 0.5
    sensitivity_levels: int = 6
    finalists: int = 2
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                raise UserError(f"staged: {name} must be a number of at least {least}, got {value}")
        if self.crossover_rate > 1:
            raise UserError(f"staged: crossover_rate is a chance, at most 1, got {self.crossover_rate}")
        if self.swap + self.merge_split == 0:
            raise UserError("staged: swap and merge_split cannot both be 0; the others can do nothing at times")

    def search(self, problem: Problem, rng: np.random.Generator) -> Iterator[Generation]:
        return generations_of(StagedRun(self, problem, rng))

    def population_size(self, problem: Problem) -> int:
        """Survivors of a generation."""
        if self.population is not None:
            return self.population
        return FRONT_POPULATION if len(problem.objectives) > 1 else POPULATION

    def most_generations(self, problem: Problem) -> int:
        """Generation 0, those that follow, and the finals."""
        return 1 + self.generations + int(self.has_finals(problem))

    def has_finals(self, problem: Problem) -> bool:
        """Whether the last step is a choice by the final objective."""
        return problem.final is not None and len(problem.objectives) == 1 and self.finalists > 0
