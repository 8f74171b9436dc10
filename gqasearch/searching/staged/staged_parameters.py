"""The parameters of the staged evolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.errors import UserError
from gqasearch.searching._base import SearchMethod, check_parameters
from gqasearch.searching.problem import Problem

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
class StagedParameters(SearchMethod):
    """What :class:`Staged` can be told; see there."""

    name: ClassVar[str] = "staged"

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
        check_parameters(self, LEAST, ("crossover_rate",))
        if self.swap + self.merge_split == 0:
            raise UserError("staged: swap and merge_split cannot both be 0; the others can do nothing at times")

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
