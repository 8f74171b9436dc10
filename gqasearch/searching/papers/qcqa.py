"""QCQA's two searches: groups of any size (AC), groups of equal size (EC)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.searching._base import SearchMethod, check_parameters
from gqasearch.searching.operators import count_range
from gqasearch.searching.papers.nsga2_genomes import LabelGenomes, LayerGenomes, RunGenomes, equal_counts
from gqasearch.searching.papers.qcqa_run import BATCH, Settings, Stages
from gqasearch.searching.problem import Generation, Problem

# The smallest value of every parameter that has one.
LEAST: dict[str, float] = {
    "population": 2,
    "generations": 0,
    "crossover_rate": 0,
    "mutation_rate": 0,
    "layer_groups": 1,
}


@dataclass(frozen=True)
class QCQA(SearchMethod):
    """NSGA-II in two stages: what both cardinalities share.

    Stage 1, for every layer: partitions by (groups / H, error). Stage 2, over layers: one choice each, by
    (KV heads in all, sum of errors). ``stage_two``: with "one-point", the paper's, a layer is left MHA or
    grouped as one point of its stage 1 says: the one with ``layer_groups`` groups, or the next with fewer,
    or, where stage 1 met none of those, the one with the fewest; with "table" it takes any non-dominated point.
    ``layer_groups``: None takes the largest number that is at most a quarter of the heads and can reach
    the budget. ``population``, ``generations``, ``crossover_rate`` hold for both stages, and so does
    ``mutation_rate``, the chance per gene: None for 1/H, then 1/L.

    No genome is twice in a population. Stage 2 sees the best partition that stage 1 met for every number of
    groups. ``evaluations`` counts every genome, two names of one partition as two.

    The budget counts as a total; ``Budget.largest_group`` bounds groups, a smallest size is refused: layers
    left MHA have groups of one head. The answer is the best of neighbour grouping and the points
    of stage 2 that fit the budget: neighbours, where none fits.

    We know of no number of generations that the paper gives, nor of the point that stage 2 takes of a layer. A
    public reproduction (https://github.com/vinayjoshi22/qcqa) runs 10 generations unless told otherwise, with which
    the front of 32 heads is far from still. It bounds the number of groups beforehand and takes the
    point of lowest error, which is what ``layer_groups`` does.
    """

    reference: ClassVar[str] = "https://arxiv.org/abs/2406.10247"
    multi_objective: ClassVar[bool] = True
    whole_model: ClassVar[bool] = False
    by_layer: ClassVar[bool] = False
    splits_budget: ClassVar[bool] = True

    population: int = 100
    generations: int = 400
    crossover_rate: float = 0.9
    mutation_rate: float | None = None
    stage_two: Literal["one-point", "table"] = "one-point"
    layer_groups: int | None = None

    def __post_init__(self) -> None:
        check_parameters(self, LEAST, ("crossover_rate", "mutation_rate"))
        if self.stage_two == "table" and self.layer_groups is not None:
            raise UserError(f"{self.name}: layer_groups has no effect with stage_two table; give one of them")

    @abstractmethod
    def genomes(self, budget: Budget) -> LayerGenomes:
        """Stage 1's genomes."""

    @abstractmethod
    def counts(self, budget: Budget) -> list[int]:
        """Numbers of groups that they can have, ascending."""

    def search(self, problem: Problem, rng: np.random.Generator) -> Iterator[Generation]:
        """A generation is up to ten of a stage's.

        ``front`` is the whole front at the end of a search with the KV ratio as second objective.
        """
        return Stages(self.settings(problem), problem, rng).generations()

    def most_generations(self, problem: Problem) -> int:
        """The start, then both stages in batches."""
        return 1 + (problem.num_layers + 1) * max(1, -(-self.generations // BATCH))

    def settings(self, problem: Problem) -> Settings:
        """What the two stages need; refuses what cannot be searched."""
        if problem.budget.smallest_group > 1:
            raise UserError(
                f"method {self.name} leaves layers MHA, with groups of one head, and cannot have groups of at least "
                f"{problem.budget.smallest_group}; qcqa-ec makes equal sizes by itself, without equal_sizes"
            )
        return Settings(
            method=self.name,
            genomes=self.genomes(problem.budget),
            population=self.population,
            generations=self.generations,
            crossover_rate=self.crossover_rate,
            mutation_rate=self.mutation_rate,
            layer_groups=self._layer_groups(problem) if self.stage_two == "one-point" else None,
        )

    def _layer_groups(self, problem: Problem) -> int:
        """Groups of a grouped layer in stage 2."""
        budget, counts = problem.budget, self.counts(problem.budget)
        affordable = budget.total // problem.num_layers
        if self.layer_groups is None:
            most = min(max(problem.num_heads // 4, 1), affordable)
            return max((count for count in counts if count <= most), default=counts[0])
        if self.layer_groups not in counts:
            raise UserError(f"{self.name}: layer_groups must be one of {counts}, got {self.layer_groups}")
        if self.layer_groups > affordable and not problem.free_counts:
            raise UserError(
                f"{self.name}: layer_groups {self.layer_groups} in each of {problem.num_layers} layers is more than "
                f"the budget of {budget.total}; at most {affordable}"
            )
        return self.layer_groups


@dataclass(frozen=True)
class QCQAArbitrary(QCQA):
    """QCQA-AC: a genome is H group ids. See :class:`QCQA`."""

    name: ClassVar[str] = "qcqa-ac"
    summary: ClassVar[str] = "QCQA, arbitrary group sizes: NSGA-II per layer, then over layers"

    def genomes(self, budget: Budget) -> LayerGenomes:
        return LabelGenomes(budget)

    def counts(self, budget: Budget) -> list[int]:
        fewest, most = count_range(budget)
        return list(range(fewest, most + 1))


@dataclass(frozen=True)
class QCQAEqual(QCQA):
    """QCQA-EC: a genome is an order of the heads and a divisor of H; groups are runs of it. See :class:`QCQA`.

    Encoding and operators are ours: we know of none that the paper gives to keep sizes equal.
    """

    name: ClassVar[str] = "qcqa-ec"
    summary: ClassVar[str] = "QCQA, equal group sizes in a layer: NSGA-II per layer, then over layers"

    def genomes(self, budget: Budget) -> LayerGenomes:
        return RunGenomes(budget)

    def counts(self, budget: Budget) -> list[int]:
        return equal_counts(budget)
