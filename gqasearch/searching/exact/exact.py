"""The exact method: the best grouping, and the proof."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.evolution import Evolution
from gqasearch.searching.exact.prover import Prover
from gqasearch.searching.operators import allowed_counts
from gqasearch.searching.problem import Candidate, Generation, Problem
from gqasearch.searching.state import load_candidate, require_method, restore_rng, save_candidate, save_rng


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

    def search(
        self, problem: Problem, rng: np.random.Generator, state: dict[str, Any] | None = None
    ) -> Iterator[Generation]:
        """One generation for every number of groups that the problem asks for."""
        if problem.layer_errors is None or problem.num_layers != 1:
            raise ValueError("exact searches one layer of a sum over groups")
        prover = Prover(problem.layer_errors[0], problem.budget, self.time_limit)
        counts = self._counts(problem)
        seeds, found = rng.integers(2**63, size=len(counts)).tolist(), list[Candidate]()
        if state is not None:
            require_method(state, self.name)
            seeds, found = state["seeds"], [load_candidate(saved) for saved in state["found"]]
            restore_rng(rng, state["rng"])
        if len(found) == len(counts):
            yield self._generation(found, seeds, rng)
        for count, seed in list(zip(counts, seeds, strict=True))[len(found) :]:
            generator = np.random.default_rng(seed)
            certificate = prover.certificate(count, generator)
            groupings = [Grouping((LayerGrouping(certificate.groups),))]
            if not certificate.proven:
                groupings.append(_evolved(problem, count, generator))
            best = min(problem.evaluate(groupings), key=lambda candidate: candidate.values)
            bound = min(certificate.lower_bound, best.values[0])
            found = [*found, Candidate(best.grouping, best.values, (bound,) if np.isfinite(bound) else ())]
            yield self._generation(found, seeds, rng)

    def most_generations(self, problem: Problem) -> int:
        """One for every number of groups."""
        return len(self._counts(problem))

    def _counts(self, problem: Problem) -> list[int]:
        if not problem.free_counts:
            return list(problem.budget.counts)
        return list(allowed_counts(problem.budget))

    def _generation(self, found: list[Candidate], seeds: list[int], rng: np.random.Generator) -> Generation:
        saved = save_rng(rng)

        def state() -> dict[str, Any]:
            return {
                "method": self.name,
                "seeds": seeds,
                "found": [save_candidate(candidate) for candidate in found],
                "rng": saved,
            }

        best = min(found, key=lambda candidate: candidate.values)
        return Generation(len(found) - 1, len(found), best, tuple(found), state)


def _evolved(problem: Problem, count: int, rng: np.random.Generator) -> Grouping:
    """What the default evolution finds: where a proof stays open, it may know a better partition."""
    objectives = dict([next(iter(problem.objectives.items()))])
    budget = replace(problem.budget, counts=(count,))
    fixed = replace(problem, objectives=objectives, budget=budget, free_counts=False)
    *_, last = Evolution().search(fixed, rng)
    return last.best.grouping
