"""From a configuration to a search problem: fitness functions become objectives over groupings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from gqasearch.config import KV_RATIO
from gqasearch.fitness import (
    PreparedFitness,
    PreparedGroupFitness,
    PreparedTextFitness,
    make_fitness,
    to_numpy,
)
from gqasearch.grouping import Grouping
from gqasearch.pairwise import FloatArray
from gqasearch.parallel import Evaluator, spread_fitness
from gqasearch.searching import (
    GroupErrors,
    Objective,
    Problem,
    SearchMethod,
)
from gqasearch.searching.evaluation_log import EvaluationLog
from gqasearch.searching.problem import Clock
from gqasearch.steps.workspace import Workspace

# What guides methods that ask for a cheap error.
GUIDE = "merge-error"


def kv_ratios(groupings: Sequence[Grouping], joined: int = 1) -> FloatArray:
    """The KV ratio as an objective, (N,); ``joined``: how many heads' room every KV head has."""
    return joined * np.array([grouping.kv_ratio for grouping in groupings], dtype=np.float64)


def prepare_fitness(work: Workspace, evaluator: Evaluator | None = None) -> dict[str, PreparedFitness]:
    """Bind every fitness that the objectives name to the model; those of ``evaluator`` are bound in its workers."""
    if "statistics" in work.needs():
        work.statistics  # noqa: B018 - now, so that it is no part of the search's progress and seconds
    spread = {} if evaluator is None else spread_fitness(evaluator)
    return {name: spread.get(name) or work.prepared(fitness) for name, fitness in work.fitnesses.items()}


def build_problem(
    work: Workspace, prepared: dict[str, PreparedFitness], method: SearchMethod, log: EvaluationLog | None = None
) -> Problem:
    """The search problem of this run, with what ``method`` needs to know of the heads.

    ``log``: of a search that may have been stopped: it answers what it knows, and notes the rest.
    """
    if log is not None:
        prepared = {name: log.of(name, fitness) for name, fitness in prepared.items()}
    config, budget = work.config, work.budget
    objectives: dict[str, Objective] = {
        name: partial(kv_ratios, joined=config.join) if name == KV_RATIO else prepared[name].evaluate
        for name in config.objectives
    }
    first = prepared[config.fitness]
    per_layer = None
    if isinstance(first, PreparedGroupFitness) and objectives.keys() <= {config.fitness, KV_RATIO}:
        per_layer = tuple(first.layer_errors(layer, budget.num_heads) for layer in range(len(budget.counts)))
    return Problem(
        objectives,
        budget,
        free_counts=config.has_free_counts,
        layer_errors=per_layer,
        similarity=head_similarity(work) if "similarity" in method.needs else None,
        norms=head_norms(work) if "norms" in method.needs else None,
        guide=guide_errors(work, log) if "guide" in method.needs else None,
        partial=first if isinstance(first, PreparedTextFitness) else None,
        final=first.evaluate_refined if isinstance(first, PreparedTextFitness) and work.refinement.reads_text else None,
        clock=Clock(() if log is None else log.seconds),
        recall=lambda key, make: make() if log is None else log.recall(key, make),
    )


def guide_errors(work: Workspace, log: EvaluationLog | None = None) -> tuple[GroupErrors, ...]:
    """The error of the merge in use, by layer, (L,)."""
    fitness = work.prepared(make_fitness(GUIDE))
    fitness = fitness if log is None else log.of("guide", fitness)
    if not isinstance(fitness, PreparedGroupFitness):
        raise TypeError(f"fitness {GUIDE} is no sum over groups")
    budget = work.budget
    return tuple(fitness.layer_errors(layer, budget.num_heads) for layer in range(len(budget.counts)))


def head_similarity(work: Workspace) -> FloatArray:
    """Cosine of two heads' activations at the same token, keys and values averaged, (L, H, H); or each, (2 L, H, H)."""
    layers = (work.statistics.layer(index) for index in range(work.parent.geometry.num_layers))
    if work.config.separate_kv:
        return np.stack([to_numpy(side) for layer in layers for side in (layer.key_cosine, layer.value_cosine)])
    return np.stack([to_numpy((layer.key_cosine + layer.value_cosine) / 2) for layer in layers])


def head_norms(work: Workspace) -> FloatArray:
    """Frobenius norm of every head's K and V weights together, (L, H); or of each, (2 L, H)."""
    layers = (work.parent.layer(index) for index in range(work.parent.geometry.num_layers))
    if work.config.separate_kv:
        sides = (side.double().square().sum((1, 2)) for layer in layers for side in (layer.seen_keys[0], layer.v))
        return np.sqrt(np.stack([to_numpy(square) for square in sides]))
    squares = [
        layer.seen_keys[0].double().square().sum((1, 2)) + layer.v.double().square().sum((1, 2)) for layer in layers
    ]
    return np.sqrt(np.stack([to_numpy(square) for square in squares]))
