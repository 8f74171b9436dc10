"""Optuna's TPE on labels: what a general optimiser makes of the problem; a baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import optuna

from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.search._base import SearchMethod
from gqasearch.search.operators import repair
from gqasearch.search.problem import Generation, Problem
from gqasearch.search.record import Record
from gqasearch.search.state import require_method, restore_rng, save_rng


@dataclass(frozen=True)
class TPE(SearchMethod):
    """Tree-structured Parzen estimator (Bergstra et al. 2011): one categorical label per head and layer.

    Labels that break the budget are repaired; TPE is told the value of what they became. ``trials``:
    labellings asked for; ``batch``: of them per generation.
    """

    name: ClassVar[str] = "tpe"
    reference: ClassVar[str] = "https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization"
    summary: ClassVar[str] = "Optuna's TPE over labels, repaired to the budget; a baseline"

    trials: int = 200
    batch: int = 20

    def __post_init__(self) -> None:
        if self.trials < 1 or self.batch < 1:
            raise UserError(f"tpe: trials and batch must be at least 1, got {self.trials} and {self.batch}")

    def search(
        self, problem: Problem, rng: np.random.Generator, state: dict[str, Any] | None = None
    ) -> Iterator[Generation]:
        """A resumed search asks TPE the same questions again and answers from the record: same bits."""
        record, done, generator_state = Record(problem), 0, save_rng(rng)
        if state is not None:
            require_method(state, self.name)
            generator_state = state["rng"]
            restore_rng(rng, generator_state)
            record.load(state["record"])
            done = state["done"]
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=int(rng.integers(2**31)))
        study = optuna.create_study(direction="minimize", sampler=sampler)
        for asked in range(self.trials):
            trial = study.ask()
            individual = record.evaluate([_suggest(trial, problem, rng)])[0]
            study.tell(trial, individual.candidate.values[0])
            last = asked + 1
            if last > done and (last % self.batch == 0 or last == self.trials):
                yield self._generation(record, last, generator_state)
        if done >= self.trials:
            yield self._generation(record, done, generator_state)

    def _generation(self, record: Record, done: int, generator_state: dict[str, Any]) -> Generation:
        snapshot = record.snapshot()
        best = snapshot.best.candidate

        def state() -> dict[str, Any]:
            return {"method": self.name, "done": done, "rng": generator_state, "record": record.save(snapshot)}

        return Generation(-(-done // self.batch) - 1, snapshot.length, best, (best,), state)

    def most_generations(self) -> int:
        return -(-self.trials // self.batch)


def _suggest(trial: optuna.Trial, problem: Problem, rng: np.random.Generator) -> Grouping:
    """Labels from the trial, made to fit the budget."""
    layers = []
    for layer, count in enumerate(problem.budget.counts):
        names = list(range(count))
        labels = [trial.suggest_categorical(f"{layer}.{head}", names) for head in range(problem.num_heads)]
        groups = [list(group) for group in LayerGrouping.from_labels(labels).groups]
        layers.append(repair(groups, count, problem.budget, rng))
    return Grouping(tuple(layers))
