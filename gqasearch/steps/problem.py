"""From a configuration to a search problem: fitness functions become objectives over groupings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from gqasearch.config import KV_RATIO
from gqasearch.fitness import (
    PreparedFitness,
    PreparedGroupFitness,
    PreparedPairwiseFitness,
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
    PairwiseErrors,
    PartialObjective,
    Problem,
    SearchMethod,
    SetErrors,
)
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


def build_problem(work: Workspace, prepared: dict[str, PreparedFitness], method: SearchMethod) -> Problem:
    """The search problem of this run, with what ``method`` needs to know of the heads."""
    config, budget = work.config, work.budget
    objectives: dict[str, Objective] = {
        name: partial(kv_ratios, joined=config.join) if name == KV_RATIO else prepared[name].evaluate
        for name in config.objectives
    }
    first = prepared[config.fitness]
    per_layer = None
    if isinstance(first, PreparedGroupFitness) and objectives.keys() <= {config.fitness, KV_RATIO}:
        per_layer = tuple(layer_errors(first, layer, budget.num_heads) for layer in range(len(budget.counts)))
    return Problem(
        objectives,
        budget,
        free_counts=config.has_free_counts,
        layer_errors=per_layer,
        similarity=head_similarity(work) if "similarity" in method.needs else None,
        norms=head_norms(work) if "norms" in method.needs else None,
        guide=guide_errors(work) if "guide" in method.needs else None,
        partial=OnBatches(first) if isinstance(first, PreparedTextFitness) else None,
        final=first.evaluate_refined if isinstance(first, PreparedTextFitness) and work.refinement.reads_text else None,
    )


class OnBatches(PartialObjective):
    """A fitness that runs the model, on part of its text."""

    def __init__(self, fitness: PreparedTextFitness) -> None:
        self.fitness = fitness
        self.batch_tokens = fitness.batch_tokens

    def evaluate(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        return self.fitness.evaluate_batches(groupings, batches)


def guide_errors(work: Workspace) -> tuple[GroupErrors, ...]:
    """The error of the merge in use, by layer, (L,)."""
    fitness = work.prepared(make_fitness(GUIDE))
    if not isinstance(fitness, PreparedGroupFitness):
        raise TypeError(f"fitness {GUIDE} is no sum over groups")
    budget = work.budget
    return tuple(layer_errors(fitness, layer, budget.num_heads) for layer in range(len(budget.counts)))


def layer_errors(fitness: PreparedGroupFitness, layer: int, num_heads: int) -> GroupErrors:
    """One layer's part of a group fitness, as search sees it."""
    if isinstance(fitness, PreparedPairwiseFitness):
        return PairwiseErrors(fitness.distances(layer))
    return SetErrors(num_heads, partial(fitness.group_errors, layer))


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
        sides = (side.double().square().sum((1, 2)) for layer in layers for side in (layer.k, layer.v))
        return np.sqrt(np.stack([to_numpy(square) for square in sides]))
    squares = [layer.k.double().square().sum((1, 2)) + layer.v.double().square().sum((1, 2)) for layer in layers]
    return np.sqrt(np.stack([to_numpy(square) for square in squares]))
