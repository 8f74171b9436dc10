"""Repair: any division of the heads, brought to a number of groups and to the size bounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gqasearch.budget import Budget
from gqasearch.grouping import LayerGrouping


def count_range(budget: Budget) -> tuple[int, int]:
    """Fewest and most groups of one layer that the bounds allow; all counts between are possible."""
    most = budget.num_heads // budget.smallest_group
    return -(-budget.num_heads // budget.largest), min(most, budget.most_groups or most)


def allowed_counts(budget: Budget) -> range:
    """Numbers of groups that a layer may have: those within ``count_range`` that ``budget.count_step`` divides."""
    low, high = count_range(budget)
    step = budget.count_step
    return range(-(-low // step) * step, high + 1, step)


def repair(groups: Sequence[Sequence[int]], count: int, budget: Budget, rng: np.random.Generator) -> LayerGrouping:
    """A partition into ``count`` groups within bounds that keeps as much of ``groups`` as it can.

    ``groups``: non-empty, together all heads once. Changes nothing when nothing is wrong.
    """
    work = [list(group) for group in groups]
    while len(work) > count:
        _merge_two(work, budget, rng)
    while len(work) < count:
        split_one(work, rng)
    _fit_sizes(work, budget, rng)
    return LayerGrouping.from_groups(work)


def _merge_two(work: list[list[int]], budget: Budget, rng: np.random.Generator) -> None:
    first = work.pop(int(rng.integers(len(work))))
    fitting = [group for group in work if len(group) + len(first) <= budget.largest] or work
    fitting[int(rng.integers(len(fitting)))].extend(first)


def split_one(work: list[list[int]], rng: np.random.Generator) -> None:
    """Split a group of two or more heads, drawn with a chance in proportion to its ways of being cut.

    ``work`` gets one group more; it must have a group that can be split.
    """
    heads = [group for group in work for _ in group[1:]]
    group = heads[int(rng.integers(len(heads)))]
    order = rng.permutation(len(group)).tolist()
    cut = int(rng.integers(1, len(group)))
    work.append([group[i] for i in order[:cut]])
    group[:] = [group[i] for i in order[cut:]]


def _fit_sizes(work: list[list[int]], budget: Budget, rng: np.random.Generator) -> None:
    """Heads of too large groups go to the smallest, too small groups get theirs from the largest."""
    while len(largest := max(work, key=len)) > budget.largest:
        min(work, key=len).append(largest.pop(int(rng.integers(len(largest)))))
    while len(smallest := min(work, key=len)) < budget.smallest_group:
        largest = max(work, key=len)
        smallest.append(largest.pop(int(rng.integers(len(largest)))))
