"""Simulated annealing of partitions; a baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.pairwise import FloatArray, IntArray
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.baselines.chains import Proposals, make_chains, random_labels
from gqasearch.searching.baselines.counted_run import CountedRun
from gqasearch.searching.problem import Generation, Problem

# Proposals of every chain in one generation, and of every chain to measure the first temperature by.
BATCH = 500
PROBES = 50


@dataclass(frozen=True)
class Annealing(SearchMethod):
    """``chains`` independent walks of ``steps`` random swaps and moves, taken with chance exp(-delta / T).

    T falls geometrically (Kirkpatrick et al. 1983) from ``hottest`` to ``coldest``, in standard deviations of what
    random swaps and moves of random partitions change.
    """

    name: ClassVar[str] = "annealing"
    reference: ClassVar[str] = "https://doi.org/10.1126/science.220.4598.671"
    summary: ClassVar[str] = "simulated annealing by swaps and moves, several chains; a baseline"
    whole_model: ClassVar[bool] = False

    chains: int = 5
    steps: int = 20_000
    hottest: float = 0.3
    coldest: float = 0.02

    def __post_init__(self) -> None:
        if self.chains < 1 or self.steps < 1:
            raise UserError(f"annealing: chains and steps must be at least 1, got {self.chains} and {self.steps}")
        if not 0 < self.coldest <= self.hottest < float("inf"):
            raise UserError(
                f"annealing: 0 < coldest <= hottest is needed, got coldest {self.coldest} and hottest {self.hottest}"
            )

    def search(self, problem: Problem, rng: np.random.Generator) -> Iterator[Generation]:
        return _Annealing(self, problem, rng).generations()

    def most_generations(self, problem: Problem) -> int:
        return -(-self.steps // BATCH)

    def temperatures(self, first: int, count: int) -> FloatArray:
        """Temperatures, (count,), of the steps from ``first`` on, in units of the spread of deltas."""
        done = np.arange(first, first + count) / max(self.steps - 1, 1)
        return np.asarray(self.hottest * (self.coldest / self.hottest) ** done)


class _Annealing(CountedRun):
    def __init__(self, method: Annealing, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(method, problem, rng, method.most_generations(problem))
        self.method = method
        # Where every chain is, and the best it has been, (N, H) each.
        self.labels: IntArray = np.empty((0, problem.num_heads), dtype=np.int64)
        self.best = self.labels
        self.spread = 0.0

    def prepare(self) -> None:
        budget, count = self.problem.budget, self.method.chains
        self.labels = self.best = random_labels(count, budget, self.rng)
        chains = make_chains(self.errors, self.labels, budget)
        probes = Proposals.draw(PROBES, count, budget, True, self.rng)
        deltas = np.concatenate([probes.deltas(chains, step) for step in range(PROBES)])
        deltas = deltas[np.isfinite(deltas)]
        self.record.charge(len(deltas))
        self.spread = float(deltas.std()) if len(deltas) else 0.0

    def advance(self) -> None:
        budget, every = self.problem.budget, np.arange(self.method.chains)
        # Built anew from the labels, so that a search that goes on from a state has the same sums to the bit.
        chains = make_chains(self.errors, self.labels, budget)
        best, now, lowest = self.best.copy(), chains.errors(every), self.errors.evaluate(self.best)
        first = BATCH * (self.index + 1)
        steps = min(BATCH, self.method.steps - first)
        proposals = Proposals.draw(steps, len(every), budget, True, self.rng)
        # delta < T * e with e drawn from the exponential distribution has chance exp(-delta / T).
        limits = self.rng.exponential(size=(steps, len(every)))
        limits *= self.spread * self.method.temperatures(first, steps)[:, None]
        for step in range(steps):
            deltas = proposals.deltas(chains, step)
            self.record.charge(int(np.isfinite(deltas).sum()))
            taken = np.flatnonzero(deltas < limits[step])
            proposals.take(chains, step, taken)
            now[taken] += deltas[taken]
            better = taken[now[taken] < lowest[taken]]
            best[better], lowest[better] = chains.labels[better], now[better]
        self.labels, self.best = chains.labels, best
        self.record.evaluate([Grouping.from_labels([best[int(lowest.argmin())].tolist()])])
