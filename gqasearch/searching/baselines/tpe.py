"""Optuna's TPE on labels: what a general optimiser makes of the problem; a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import optuna

from gqasearch.searching.baselines.optuna_search import OptunaSearch


@dataclass(frozen=True)
class TPE(OptunaSearch):
    """Tree-structured Parzen estimator (Bergstra et al. 2011): one categorical label per head and layer.

    Labels that break the budget are repaired; TPE is told the value of what they became. ``trials``:
    labellings asked for; ``batch``: of them per generation.
    """

    name: ClassVar[str] = "tpe"
    reference: ClassVar[str] = "https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization"
    summary: ClassVar[str] = "Optuna's TPE over labels, repaired to the budget; a baseline"

    def sampler(self, seed: int, labels: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(seed=seed)

    def suggest(self, trial: optuna.Trial, name: str, count: int) -> int:
        return trial.suggest_categorical(name, list(range(count)))
