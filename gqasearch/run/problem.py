"""From a configuration to a search problem: fitness functions become objectives over groupings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gqasearch.fitness import FloatArray, PreparedFitness, PreparedGroupFitness
from gqasearch.grouping import Grouping
from gqasearch.run.config import KV_RATIO
from gqasearch.run.workspace import Workspace
from gqasearch.search import Objective, Problem


def kv_ratios(groupings: Sequence[Grouping]) -> FloatArray:
    """The KV ratio as an objective, (N,)."""
    return np.array([grouping.kv_ratio for grouping in groupings], dtype=np.float64)


def prepare_fitness(work: Workspace) -> dict[str, PreparedFitness]:
    """Bind every fitness that the objectives name to the model."""
    if "statistics" in work.needs():
        work.statistics  # noqa: B018 - now, so that it is no part of the search's progress and seconds
    context = work.context()
    return {name: fitness.prepare(context) for name, fitness in work.fitnesses.items()}


def build_problem(work: Workspace, prepared: dict[str, PreparedFitness]) -> Problem:
    """The search problem of this run."""
    config = work.config
    objectives: dict[str, Objective] = {
        name: kv_ratios if name == KV_RATIO else prepared[name].evaluate for name in config.objectives
    }
    budget = config.budget(work.parent.geometry)
    first = prepared[config.fitness]
    per_layer = None
    if isinstance(first, PreparedGroupFitness) and len(objectives) == 1:
        per_layer = tuple(layer_objective(first, layer) for layer in range(len(budget.counts)))
    return Problem(objectives, budget, free_counts=config.has_free_counts, layer_objectives=per_layer)


def layer_objective(fitness: PreparedGroupFitness, layer: int) -> Callable[[Sequence[Grouping]], FloatArray]:
    """One layer's part of a group fitness, over groupings of one layer."""

    def evaluate(groupings: Sequence[Grouping]) -> FloatArray:
        return np.array([fitness.layer_error(layer, grouping.layers[0].groups) for grouping in groupings])

    return evaluate
