"""The search problem of a run before anything is measured: what its method makes of it can be told, and refused."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import isabstract
from typing import get_type_hints

import numpy as np

from gqasearch.config import KV_RATIO
from gqasearch.fitness import (
    Fitness,
    PreparedFitness,
    PreparedGroupFitness,
    PreparedPairwiseFitness,
    PreparedTextFitness,
)
from gqasearch.grouping import Grouping
from gqasearch.pairwise import FloatArray
from gqasearch.searching import GroupErrors, PairwiseErrors, Problem, SetErrors
from gqasearch.steps.search_problem import kv_ratios
from gqasearch.steps.workspace import Workspace


def prepared_kind(fitness: Fitness) -> type[PreparedFitness] | None:
    """What its ``prepare`` is annotated to give; None where that says no more than the contract does."""
    try:
        found = get_type_hints(type(fitness).prepare).get("return")
    except (NameError, TypeError):  # names that only a type checker imports
        return None
    known = isinstance(found, type) and issubclass(found, PreparedFitness) and not isabstract(found)
    return found if known else None


def unmeasured_problem(work: Workspace) -> Problem | None:
    """As ``build_problem``, with zeros for everything that a model would have to be measured for; None where it cannot
    be told what kind of fitness it is.
    """
    kind = prepared_kind(work.fitnesses[work.config.fitness])
    if kind is None:
        return None
    budget, objectives = work.budget, work.config.objectives
    layers, heads = len(budget.counts), budget.num_heads
    is_sum = issubclass(kind, PreparedGroupFitness) and set(objectives) <= {work.config.fitness, KV_RATIO}
    errors: GroupErrors = PairwiseErrors(np.zeros((heads, heads)))
    if not issubclass(kind, PreparedPairwiseFitness):
        errors = SetErrors(heads, lambda groups: [0.0] * len(groups))
    on_text = issubclass(kind, PreparedTextFitness)
    return Problem(
        dict.fromkeys(objectives, kv_ratios),
        budget,
        free_counts=work.config.has_free_counts,
        layer_errors=(errors,) * layers if is_sum else None,
        similarity=np.zeros((layers, heads, heads)),
        norms=np.zeros((layers, heads)),
        guide=(errors,) * layers,
        partial=_Unmeasured() if on_text else None,
        final=kv_ratios if on_text and work.refinement.reads_text else None,
    )


class _Unmeasured(PreparedTextFitness):
    """A fitness on text that is not read."""

    batch_tokens = ()

    def evaluate_batches(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        return np.zeros(len(groupings))
