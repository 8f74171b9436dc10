"""Evolution of groupings, the default method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gqasearch.errors import UserError
from gqasearch.search._base import SearchMethod
from gqasearch.search.drive import generations_of
from gqasearch.search.evolution.curve_run import CurveRun
from gqasearch.search.evolution.evolution_run import EvolutionRun
from gqasearch.search.problem import Generation, Problem

# The smallest value of every parameter that has one.
LEAST: dict[str, float] = {
    "population": 2,
    "offspring": 1,
    "generations": 0,
    "patience": 1,
    "tournament_size": 1,
    "crossover_rate": 0,
    "mutation_rate": 0,
    "swap": 0,
    "move": 0,
    "merge_split": 0,
    "shift": 0,
    "local_individuals": 0,
    "local_steps": 0,
    "niche": 1,
    "max_evaluations": 1,
}


@dataclass(frozen=True)
class Evolution(SearchMethod):
    """(mu + lambda) evolution of partitions; NSGA-II survival for several objectives.

    ``population`` survivors have ``offspring`` children a generation. A child comes from a crossover with
    chance ``crossover_rate`` and is then mutated with chance ``mutation_rate``; the others are mutants of
    one parent. ``swap``, ``move``, ``merge_split`` and ``shift`` say how often each mutation is drawn,
    relative to the others; ``shift`` only counts where the numbers of groups may change. The
    ``local_individuals`` best children of a generation then go to a better neighbour at most
    ``local_steps`` times each. That takes hundreds of evaluations: set either to 0 for an objective that
    runs the model. Where the whole error-against-groups curve of a layer is traced, every number of groups
    has ``niche`` survivors and ``niche`` children in place of ``population`` and ``offspring``. Ends after
    ``generations``, after ``patience`` of them in a row without a better candidate, with ``max_evaluations``,
    or when the operators find nothing that was not evaluated yet.
    """

    name: ClassVar[str] = "evolution"
    reference: ClassVar[str] = "https://doi.org/10.1007/BF00226291"
    summary: ClassVar[str] = "memetic evolution with operators on partitions; NSGA-II for several objectives"
    multi_objective: ClassVar[bool] = True
    traces_curve: ClassVar[bool] = True

    population: int = 30
    offspring: int = 30
    generations: int = 200
    patience: int = 15
    tournament_size: int = 2
    crossover_rate: float = 0.7
    mutation_rate: float = 0.3
    swap: float = 1.0
    move: float = 1.0
    merge_split: float = 0.5
    shift: float = 1.0
    local_individuals: int = 30
    local_steps: int = 100
    niche: int = 2
    max_evaluations: int | None = None

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                raise UserError(f"evolution: {name} must be a number of at least {least}, got {value}")
        for name in ("crossover_rate", "mutation_rate"):
            if getattr(self, name) > 1:
                raise UserError(f"evolution: {name} is a chance, at most 1, got {getattr(self, name)}")
        if self.swap + self.merge_split == 0:
            raise UserError("evolution: swap and merge_split cannot both be 0; move can do nothing at equal sizes")

    def search(
        self, problem: Problem, rng: np.random.Generator, state: dict[str, Any] | None = None
    ) -> Iterator[Generation]:
        """See :meth:`SearchMethod.search`; the state of a finished search gives its last generation again."""
        is_curve = problem.layer_errors is not None and problem.free_counts and problem.num_layers == 1
        run = CurveRun(self, problem, rng) if is_curve else EvolutionRun(self, problem, rng)
        yield from generations_of(run, state)

    def most_generations(self, problem: Problem) -> int:
        """Generation 0 and those that follow."""
        return self.generations + 1
