"""Start: random numbers of groups for the layers of a model."""

from __future__ import annotations

import numpy as np

from gqasearch.budget import Budget
from gqasearch.searching.operators.repair import allowed_counts


def random_counts(budget: Budget, free_counts: bool, rng: np.random.Generator) -> tuple[int, ...]:
    """Groups per layer, (L,), that the search may use.

    Fixed budget: ``budget.counts``. Movable: the same sum after up to L groups changed their layer. Free:
    a random level for the model and every layer near it, because counts drawn layer by layer
    would all have about the same sum.
    """
    if free_counts:
        return _around_a_level(budget, rng)
    if budget.movable:
        return _after_transfers(budget, rng)
    return budget.counts


def _around_a_level(budget: Budget, rng: np.random.Generator) -> tuple[int, ...]:
    allowed = allowed_counts(budget)
    low, high = allowed[0], allowed[-1]
    level = rng.uniform(low, high)
    spread = (high - low) / 4
    drawn = level + rng.uniform(-spread, spread, size=len(budget.counts))
    steps = np.rint(np.clip(drawn, low, high) / budget.count_step).astype(int)
    return tuple((steps * budget.count_step).tolist())


def _after_transfers(budget: Budget, rng: np.random.Generator) -> tuple[int, ...]:
    allowed, step = allowed_counts(budget), budget.count_step
    counts = list(budget.counts)
    for _ in range(int(rng.integers(len(counts) + 1))):
        giver, taker = rng.integers(len(counts), size=2).tolist()
        if giver != taker and counts[giver] > allowed[0] and counts[taker] < allowed[-1]:
            counts[giver] -= step
            counts[taker] += step
    return tuple(counts)
