"""Selection. DEAP's tournaments draw from the global ``random``; these take the generator."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from gqasearch.search.record import Individual


def tournament(individuals: Sequence[Individual], size: int, rng: np.random.Generator) -> Individual:
    """The best of ``size`` individuals drawn with replacement; among equals the first drawn."""
    drawn: list[Individual] = [individuals[i] for i in rng.integers(len(individuals), size=size).tolist()]
    return reduce(lambda a, b: b if b.dominates(a) else a, drawn)


def crowded_tournament(individuals: Sequence[Individual], size: int, rng: np.random.Generator) -> Individual:
    """As ``tournament``, for several objectives: dominance first, then the larger crowding distance.

    The comparison of NSGA-II (Deb et al. 2002, https://doi.org/10.1109/4235.996017, Section III-B); needs
    the ``crowding_dist`` that ``deap.tools.selNSGA2`` sets.
    """
    drawn: list[Individual] = [individuals[i] for i in rng.integers(len(individuals), size=size).tolist()]
    return reduce(_crowded_better, drawn)


def _crowded_better(a: Individual, b: Individual) -> Individual:
    if a.dominates(b):
        return a
    if b.dominates(a) or b.fitness.crowding_dist > a.fitness.crowding_dist:
        return b
    return a
