"""What Optuna's samplers share as search methods: trials that suggest labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import optuna

from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.baselines.label_genomes import repair_labels
from gqasearch.searching.problem import Generation, Problem
from gqasearch.searching.record import Record


@dataclass(frozen=True)
class OptunaSearch(SearchMethod):
    """A sampler that suggests a label for every head and layer.

    Labels that break the budget are repaired; the sampler is told the value of what they became. ``trials``:
    labellings asked for; ``batch``: of them per generation.
    """

    trials: int = 200
    batch: int = 20

    def __post_init__(self) -> None:
        if self.trials < 1 or self.batch < 1:
            raise UserError(f"{self.name}: trials and batch must be at least 1, got {self.trials} and {self.batch}")

    @abstractmethod
    def sampler(self, seed: int, labels: int) -> optuna.samplers.BaseSampler:
        """A new sampler; ``labels``: how many it will suggest in one trial."""

    @abstractmethod
    def suggest(self, trial: optuna.Trial, name: str, count: int) -> int:
        """A label in 0 .. count - 1."""

    def search(self, problem: Problem, rng: np.random.Generator) -> Iterator[Generation]:
        record = Record(problem)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = self.sampler(int(rng.integers(2**31)), problem.num_layers * problem.num_heads)
        study = optuna.create_study(direction="minimize", sampler=sampler)
        for done in range(1, self.trials + 1):
            trial = study.ask()
            (individual,) = record.evaluate([self._grouping(trial, problem, rng)])
            study.tell(trial, individual.candidate.values[0])
            if done % self.batch == 0 or done == self.trials:
                best = record.best.candidate
                yield Generation(-(-done // self.batch) - 1, record.evaluations, best, (best,))

    def _grouping(self, trial: optuna.Trial, problem: Problem, rng: np.random.Generator) -> Grouping:
        """Labels from the trial, made to fit the budget."""
        heads = range(problem.num_heads)
        rows = [
            [self.suggest(trial, f"{layer}.{head}", count) for head in heads]
            for layer, count in enumerate(problem.budget.counts)
        ]
        return repair_labels(rows, problem.budget, rng)

    def most_generations(self, problem: Problem) -> int:
        return -(-self.trials // self.batch)
