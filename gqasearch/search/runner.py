"""Run a search method on a problem: layer by layer where the problem allows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gqasearch.errors import UserError
from gqasearch.search._base import SearchMethod
from gqasearch.search.layerwise import search_layers
from gqasearch.search.neighbour import Neighbour
from gqasearch.search.problem import Generation, Problem


def run_search(
    method: SearchMethod, problem: Problem, rng: np.random.Generator, state: dict[str, Any] | None = None
) -> Iterator[Generation]:
    """Generations of ``method`` on ``problem``; ``state``: of the last generation of a stopped search.

    At least one generation is yielded: the state of a finished search gives its last one again. Raises
    ``UserError`` when the method does not take so many objectives.
    """
    if len(problem.objectives) > 1 and not method.multi_objective:
        raise UserError(f"method {method.name} takes one objective, got {', '.join(problem.objectives)}")
    if _goes_by_layer(method, problem):
        return search_layers(method, problem, rng, state)
    return method.search(problem, rng, state)


def most_generations(method: SearchMethod, problem: Problem) -> int | None:
    """Generations that a search yields at most, for progress bars; None when it cannot be told."""
    most = method.most_generations()
    return most if most is None or not _goes_by_layer(method, problem) else 1 + most * problem.num_layers


def _goes_by_layer(method: SearchMethod, problem: Problem) -> bool:
    """Where layers are independent, except for a method that searches nothing."""
    return problem.is_separable and len(problem.objectives) == 1 and not isinstance(method, Neighbour)
