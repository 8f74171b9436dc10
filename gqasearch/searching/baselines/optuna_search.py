"""What Optuna's samplers share as search methods: trials that suggest labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.baselines.label_genomes import repair_labels
from gqasearch.searching.problem import Generation, Problem
from gqasearch.searching.record import Record
from gqasearch.searching.state import require_method, restore_rng, save_rng


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

    def search(
        self, problem: Problem, rng: np.random.Generator, state: dict[str, Any] | None = None
    ) -> Iterator[Generation]:
        """A resumed search asks the sampler the same questions again and answers from the record: same bits."""
        record, done, generator_state = Record(problem), 0, save_rng(rng)
        if state is not None:
            require_method(state, self.name)
            generator_state = state["rng"]
            restore_rng(rng, generator_state)
            record.load(state["record"])
            done = state["done"]
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = self.sampler(int(rng.integers(2**31)), problem.num_layers * problem.num_heads)
        study = optuna.create_study(direction="minimize", sampler=sampler)
        for asked in range(self.trials):
            trial = study.ask()
            individual = record.evaluate([self._grouping(trial, problem, rng)])[0]
            study.tell(trial, individual.candidate.values[0])
            last = asked + 1
            if last > done and (last % self.batch == 0 or last == self.trials):
                yield self._generation(record, last, generator_state)
        if done >= self.trials:
            yield self._generation(record, done, generator_state)

    def _grouping(self, trial: optuna.Trial, problem: Problem, rng: np.random.Generator) -> Grouping:
        """Labels from the trial, made to fit the budget."""
        heads = range(problem.num_heads)
        rows = [
            [self.suggest(trial, f"{layer}.{head}", count) for head in heads]
            for layer, count in enumerate(problem.budget.counts)
        ]
        return repair_labels(rows, problem.budget, rng)

    def _generation(self, record: Record, done: int, generator_state: dict[str, Any]) -> Generation:
        snapshot = record.snapshot()
        best = snapshot.best.candidate

        def state() -> dict[str, Any]:
            return {"method": self.name, "done": done, "rng": generator_state, "record": record.save(snapshot)}

        return Generation(-(-done // self.batch) - 1, snapshot.evaluations, best, (best,), state)

    def most_generations(self, problem: Problem) -> int:
        return -(-self.trials // self.batch)
