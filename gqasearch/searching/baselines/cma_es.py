"""Optuna's CMA-ES on relaxed labels: what a general optimiser makes of the problem; a baseline."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import optuna

from gqasearch.searching.baselines.optuna_search import OptunaSearch

# Optuna writes the whole covariance matrix down with every trial: of 1,024 labels that takes seconds.
MOST_LABELS = 256


@dataclass(frozen=True)
class CMAES(OptunaSearch):
    """Covariance matrix adaptation (Hansen and Ostermeier 2001): one number in [0, G) per head and layer.

    Its whole part is the label. Labels that break the budget are repaired; CMA-ES is told the value of what they
    became. Models with more than 256 labels get the separable form, with a diagonal covariance matrix (Ros and Hansen
    2008, https://doi.org/10.1007/978-3-540-87700-4_30). ``trials``: labellings asked for; ``batch``: of them per
    generation.
    """

    name: ClassVar[str] = "cma-es"
    reference: ClassVar[str] = "https://doi.org/10.1162/106365601750190398"
    summary: ClassVar[str] = "Optuna's CMA-ES over relaxed labels, repaired to the budget; a baseline"

    trials: int = 1000
    batch: int = 50

    def sampler(self, seed: int, labels: int) -> optuna.samplers.BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of the separable form
            return optuna.samplers.CmaEsSampler(
                seed=seed, warn_independent_sampling=False, use_separable_cma=labels > MOST_LABELS
            )

    def suggest(self, trial: optuna.Trial, name: str, count: int) -> int:
        # Optuna's bounds are closed: the upper end is the last label's too.
        return min(int(trial.suggest_float(name, 0, count)), count - 1)
