"""Selection. DEAP's tournaments draw from the global ``random``; these take the generator."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from gqasearch.searching.record import Individual


def tournament(individuals: Sequence[Individual], size: int, rng: np.random.Generator) -> Individual:
    """The best of ``size`` individuals drawn with replacement; among equals the first drawn."""
    drawn: list[Individual] = [individuals[i] for i in rng.integers(len(individuals), size=size).tolist()]
    return reduce(lambda a, b: b if b.dominates(a) else a, drawn)


def crowded_tournament(individuals: Sequence[Individual], size: int, rng: np.random.Generator) -> Individual:
    """As ``tournament``, for several objectives: of the drawn that no other drawn one dominates, the loneliest.

    Dominance, then crowding distance, as in DEAP's ``selTournamentDCD`` and NSGA-II (Deb et al. 2002,
    https://doi.org/10.1109/4235.996017, Section III-B); needs the ``crowding_dist`` that ``selNSGA2`` sets.
    """
    drawn: list[Individual] = [individuals[i] for i in rng.integers(len(individuals), size=size).tolist()]
    leading = [one for one in drawn if not any(other.dominates(one) for other in drawn)]
    return max(leading, key=lambda individual: float(individual.fitness.crowding_dist))
