"""Local descent: the memetic part of the evolution."""

from __future__ import annotations

import numpy as np

from gqasearch.grouping import Grouping
from gqasearch.search.operators import all_moves, all_swaps, exchange, relocate
from gqasearch.search.record import Individual, Record

# Neighbours evaluated together: enough for an objective to work on them as one batch, few enough
# to waste little when one of the first is better already.
import os
BATCH = int(os.environ.get('BATCH','32'))


def descend(
    start: Individual, record: Record, steps: int, rng: np.random.Generator
) -> tuple[Individual, bool]:
    """Go to a better neighbour up to ``steps`` times; a neighbour is a swap or a move away.

    Looks at the neighbours in random order, a batch at a time, and takes the first batch's best that
    dominates. Returns the individual reached and whether none of its neighbours dominates it.
    """
    current = start
    for _ in range(steps):
        better = _better_neighbour(current, record, rng)
        if better is None:
            return current, not record.is_full
        current = better
    return current, False


def _better_neighbour(
    current: Individual, record: Record, rng: np.random.Generator
) -> Individual | None:
    edits = [
        (layer, function, edit)
        for layer, groups in enumerate(current.grouping)
        for function, edits in ((exchange, all_swaps(groups)), (relocate, all_moves(groups, record.problem.budget)))
        for edit in edits
    ]
    order = rng.permutation(len(edits)).tolist()
    for start in range(0, len(order), BATCH):
        batch: list[Grouping] = []
        for index in order[start : start + BATCH]:
            layer, function, edit = edits[index]
            batch.append(current.grouping.replace_layer(layer, function(current.grouping.layers[layer], *edit)))
        best = current
        for neighbour in record.evaluate(batch):
            if neighbour.dominates(best):
                best = neighbour
        if best is not current:
            return best
    return None
