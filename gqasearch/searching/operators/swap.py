"""Mutation: two heads of different groups change places. Keeps every group's size."""

from __future__ import annotations

import numpy as np

from gqasearch.grouping import LayerGrouping


def swap(layer: LayerGrouping, rng: np.random.Generator) -> LayerGrouping:
    """A random swap; the layer itself when no swap changes it (one group, or single heads only)."""
    first_choices = [head for group in layer.groups if len(group) > 1 for head in group]
    if not first_choices or layer.num_groups == 1:
        return layer
    first = first_choices[int(rng.integers(len(first_choices)))]
    others = [head for group in layer.groups if first not in group for head in group]
    return exchange(layer, first, others[int(rng.integers(len(others)))])


def exchange(layer: LayerGrouping, first: int, second: int) -> LayerGrouping:
    """``first`` and ``second``, of different groups, in each other's group."""
    place = {first: second, second: first}
    changed = [
        tuple(sorted(place.get(head, head) for head in group)) if first in group or second in group else group
        for group in layer.groups
    ]
    return LayerGrouping(tuple(sorted(changed)))
