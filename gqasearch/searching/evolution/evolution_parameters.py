"""The parameters of the evolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.errors import UserError
from gqasearch.group_errors import PairwiseErrors
from gqasearch.searching._base import SearchMethod, check_parameters
from gqasearch.searching.problem import Problem

# ``local_steps`` where it is None and the objective a sum over groups.
DESCENT_STEPS = 100
# ``local_individuals`` where it is None and a group's error has to be computed: with more descents the same
# optimum is found, after several times as many groups.
FEW_DESCENTS = 4

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
    "looks": 1,
    "max_groups": 1,
    "max_evaluations": 1,
}


@dataclass(frozen=True)
class EvolutionParameters(SearchMethod):
    """What :class:`Evolution` can be told; see there."""

    name: ClassVar[str] = "evolution"

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
    local_individuals: int | None = None
    local_steps: int | None = None
    niche: int = 2
    looks: int = 8
    max_groups: int | None = 10_000
    max_evaluations: int | None = None

    def __post_init__(self) -> None:
        check_parameters(self, LEAST, ("crossover_rate", "mutation_rate"))
        if self.swap + self.merge_split == 0:
            raise UserError("evolution: swap and merge_split cannot both be 0; move can do nothing at equal sizes")

    def steps_for(self, problem: Problem) -> int:
        """``local_steps``, or what None stands for: descents where a neighbour costs a delta, none elsewhere."""
        if self.local_steps is not None:
            return self.local_steps
        return DESCENT_STEPS if problem.layer_errors is not None else 0

    def individuals_for(self, problem: Problem) -> int:
        """``local_individuals``, or what None stands for: all children where errors are pairwise, few elsewhere."""
        if self.local_individuals is not None:
            return self.local_individuals
        errors = problem.layer_errors
        return self.offspring if errors is not None and isinstance(errors[0], PairwiseErrors) else FEW_DESCENTS

    def most_generations(self, problem: Problem) -> int:
        """Generation 0 and those that follow."""
        return self.generations + 1
