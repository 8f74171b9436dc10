"""The exact method: the best grouping, and the proof."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np

from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.evolution import Evolution
from gqasearch.searching.exact.prover import Prover
from gqasearch.searching.operators import allowed_counts
from gqasearch.searching.problem import Candidate, Generation, Problem


@dataclass(frozen=True)
class Exact(SearchMethod):
    """Proves the best partition of every layer: column generation for pairwise fitness, subsets for others.

    ``time_limit``: seconds for one layer and number of groups; then the best partition so far, or a better one
    that the default evolution finds, is taken with the bound that was proven. Which partition that is depends on
    the machine's speed; results that were proven do not. Evaluations are not counted: every partition is
    accounted for.
    """

    name: ClassVar[str] = "exact"
    reference: ClassVar[str] = "https://doi.org/10.1137/S1064827597328327"
    summary: ClassVar[str] = "proves the best grouping: column generation, or subsets up to 16 heads"
    whole_model: ClassVar[bool] = False
    traces_curve: ClassVar[bool] = True

    time_limit: float = 60.0

    def __post_init__(self) -> None:
        if not 0 <= self.time_limit < float("inf"):
            raise UserError(f"exact: time_limit must be at least 0 seconds, got {self.time_limit}")

    def search(self, problem: Problem, rng: np.random.Generator) -> Iterator[Generation]:
        """One generation for every number of groups that the problem asks for."""
        if problem.layer_errors is None or problem.num_layers != 1:
            raise ValueError("exact searches one layer of a sum over groups")
        prover = Prover(problem.layer_errors[0], problem.budget, self.time_limit)
        counts = self._counts(problem)
        found: list[Candidate] = []
        for count, seed in zip(counts, rng.integers(2**63, size=len(counts)).tolist(), strict=True):
            labels, bound = problem.recall(f"exact, {count} groups", partial(_solved, problem, prover, count, seed))
            (best,) = problem.evaluate([Grouping.from_labels([labels])])
            found = [*found, replace(best, lower_bounds=() if bound is None else (min(bound, best.values[0]),))]
            yield Generation(len(found) - 1, len(found), min(found, key=lambda one: one.values), tuple(found))

    def most_generations(self, problem: Problem) -> int:
        """One for every number of groups."""
        return len(self._counts(problem))

    def _counts(self, problem: Problem) -> list[int]:
        if not problem.free_counts:
            return list(problem.budget.counts)
        return list(allowed_counts(problem.budget))


def _solved(problem: Problem, prover: Prover, count: int, seed: int) -> tuple[list[int], float | None]:
    """The labels of the best partition met, (H,), and a bound of any one's error; how far it comes depends on time."""
    rng = np.random.default_rng(seed)
    certificate = prover.certificate(count, rng)
    groupings = [Grouping((LayerGrouping(certificate.groups),))]
    if not certificate.proven:
        groupings.append(_evolved(problem, count, rng))
    best = min(problem.evaluate(groupings), key=lambda candidate: candidate.values)
    bound = certificate.lower_bound
    return list(best.grouping.layers[0].labels), bound if np.isfinite(bound) else None


def _evolved(problem: Problem, count: int, rng: np.random.Generator) -> Grouping:
    """What the default evolution finds: where a proof stays open, it may know a better partition."""
    objectives = dict([next(iter(problem.objectives.items()))])
    budget = replace(problem.budget, counts=(count,))
    fixed = replace(problem, objectives=objectives, budget=budget, free_counts=False)
    *_, last = Evolution().search(fixed, rng)
    return last.best.grouping
