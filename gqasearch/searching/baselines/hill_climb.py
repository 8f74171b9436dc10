"""Swap hill-climbing with restarts, as in the work on aligning heads before merging; a baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.pairwise import IntArray
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.baselines.chains import PairwiseChains, Proposals, random_labels
from gqasearch.searching.baselines.pair_distances import DistanceRun
from gqasearch.searching.problem import Generation, Problem

# Proposals of every restart in one generation.
BATCH = 250


@dataclass(frozen=True)
class HillClimb(SearchMethod):
    """From ``restarts`` random partitions, ``swaps`` random swaps each, taken when they lower the score.

    The score is the error where that is a sum over pairs. Other errors are replaced by such a sum, of the errors of
    all groups of two; the ends of all restarts are then evaluated, and the best is kept. ``moves``: half of the
    proposals move one head to another group instead, so that sizes change.
    """

    name: ClassVar[str] = "hill-climb"
    reference: ClassVar[str] = "https://arxiv.org/abs/2412.20677"
    summary: ClassVar[str] = "random swaps on pair scores, with restarts; a baseline"
    whole_model: ClassVar[bool] = False

    restarts: int = 200
    swaps: int = 3000
    moves: bool = False

    def __post_init__(self) -> None:
        if self.restarts < 1 or self.swaps < 1:
            raise UserError(f"hill-climb: restarts and swaps must be at least 1, got {self.restarts} and {self.swaps}")

    def search(self, problem: Problem, rng: np.random.Generator) -> Iterator[Generation]:
        return _HillClimb(self, problem, rng).generations()

    def most_generations(self, problem: Problem) -> int:
        return -(-self.swaps // BATCH)


class _HillClimb(DistanceRun):
    def __init__(self, method: HillClimb, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(method, problem, rng, method.most_generations(problem))
        self.method = method
        self.labels: IntArray = np.empty((0, problem.num_heads), dtype=np.int64)

    def prepare(self) -> None:
        super().prepare()
        self.labels = random_labels(self.method.restarts, self.problem.budget, self.rng)

    def advance(self) -> None:
        budget, restarts = self.problem.budget, self.method.restarts
        # Built anew from the labels, so that a search that goes on from a state has the same sums to the bit.
        chains = PairwiseChains(self.distances, self.labels, budget)
        steps = min(BATCH, self.method.swaps - BATCH * (self.index + 1))
        proposals = Proposals.draw(steps, restarts, budget, self.method.moves, self.rng)
        for step in range(steps):
            deltas = proposals.deltas(chains, step)
            if self.exact:
                self.record.charge(int(np.isfinite(deltas).sum()))
            proposals.take(chains, step, np.flatnonzero(deltas < 0))
        self.labels = chains.labels
        ends = self.labels
        if self.exact or self.index + 2 < self.total:
            ends = ends[[int(chains.errors(np.arange(restarts)).argmin())]]
        self.record.evaluate([Grouping.from_labels([row]) for row in ends.tolist()])
