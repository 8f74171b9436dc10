"""Start: a random partition with a given number of groups."""

from __future__ import annotations

import numpy as np

from gqasearch.budget import Budget
from gqasearch.grouping import LayerGrouping


def random_partition(count: int, budget: Budget, rng: np.random.Generator) -> LayerGrouping:
    """``count`` groups of random sizes within the budget's bounds, heads dealt at random.

    Sizes come from Polya's urn: every list of sizes is equally likely while ``largest_group`` does not
    bind. Labelling heads at random would give nearly equal sizes only.
    """
    sizes = _random_sizes(count, budget, rng)
    heads = rng.permutation(budget.num_heads).tolist()
    ends = np.cumsum(sizes).tolist()
    return LayerGrouping.from_groups(heads[end - size : end] for size, end in zip(sizes, ends, strict=True))


def _random_sizes(count: int, budget: Budget, rng: np.random.Generator) -> list[int]:
    """Group sizes that sum to the number of heads."""
    sizes = [budget.smallest_group] * count
    for draw in rng.random(budget.num_heads - sum(sizes)).tolist():
        weights = [size - budget.smallest_group + 1 if size < budget.largest else 0 for size in sizes]
        point = draw * sum(weights)
        for group, weight in enumerate(weights):
            point -= weight
            if point < 0:
                sizes[group] += 1
                break
    return sizes
