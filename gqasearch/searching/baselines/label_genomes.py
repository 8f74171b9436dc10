"""Label vectors as general optimisers make them, which know nothing of partitions or budgets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gqasearch.budget import Budget
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching.operators import repair


def repair_labels(rows: Sequence[Sequence[int]], budget: Budget, rng: np.random.Generator) -> Grouping:
    """The grouping of these labels, (L, H), made to fit the budget; unchanged where they fit it."""
    layers = []
    for labels, count in zip(rows, budget.counts, strict=True):
        groups = LayerGrouping.from_labels(labels).groups
        layers.append(repair(groups, count, budget, rng))
    return Grouping(tuple(layers))
