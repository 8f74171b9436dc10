"""How much each layer matters: the objective with only that layer grouped, over the guide's error of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.pairwise import FloatArray
from gqasearch.searching.problem import FAILED
from gqasearch.searching.staged.guide import GuideTable

# Groupings -> objective, (N,).
Measure: TypeAlias = Callable[[list[Grouping]], FloatArray]


def measure_sensitivity(table: GuideTable, measure: Measure, levels: int) -> tuple[FloatArray, FloatArray]:
    """Objective per unit of guide error, (L, H), column g - 1 for g groups, read in two ways.

    Measured at ``levels`` numbers of groups a layer, as the rise above the model that nothing is merged in. The first
    is linear between them: what is lost grows in other steps than the guide's error. The second is a layer's mean at
    all numbers: few tokens measure a single one badly, most of all where next to nothing is lost.
    ``measure``: the objective of groupings, (N,), all on the same text.
    """
    num_layers, num_heads = table.errors.shape
    nothing = Grouping.uniform(LayerGrouping.singletons(num_heads), num_layers)
    floor = measure([nothing])[0]
    by_level, by_layer = np.zeros((num_layers, num_heads)), np.zeros((num_layers, num_heads))
    for layer, partitions in enumerate(table.partitions):
        usable = [count for count in sorted(partitions) if count < num_heads]
        if not usable:
            continue
        counts = [usable[i] for i in sorted({round(x) for x in np.linspace(0, len(usable) - 1, levels)})]
        found = measure([nothing.replace_layer(layer, partitions[count]) for count in counts])
        if not (found < FAILED).any():
            continue
        counts = [count for count, value in zip(counts, found, strict=True) if value < FAILED]
        rises = np.maximum(found[found < FAILED] - floor, 0.0)
        errors = table.errors[layer, np.array(counts) - 1]
        ratios = np.divide(rises, errors, out=np.zeros_like(rises), where=errors > 0)
        by_level[layer] = np.interp(np.arange(1, num_heads + 1), counts, ratios)
        by_layer[layer] = ratios.mean()
    return by_level, by_layer
