"""Run a search method on a problem: layer by layer where the problem allows it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gqasearch.errors import UserError
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.layerwise import search_layers
from gqasearch.searching.limit import NO_LIMIT, Limit
from gqasearch.searching.problem import Generation, Problem
from gqasearch.searching.split_search import search_split


def run_search(
    method: SearchMethod,
    problem: Problem,
    rng: np.random.Generator,
    limit: Limit = NO_LIMIT,
) -> Iterator[Generation]:
    """Generations of ``method`` on ``problem``, one or more; ``UserError`` when it cannot take these objectives."""
    check_takes(method, problem)
    if _goes_by_layer(method, problem):
        return search_layers(method, problem, rng, limit)
    if _splits(method, problem):
        return search_split(method, problem, rng, limit)
    return limit.search(method, problem, rng)


def may_take_several(method: SearchMethod) -> bool:
    """Whether there are several objectives that this method takes."""
    return method.multi_objective or method.traces_curve or not method.whole_model


def check_takes(method: SearchMethod, problem: Problem) -> None:
    """Refuse, in words, what this method cannot search."""
    if problem.layer_errors is None and not method.whole_model:
        raise UserError(
            f"method {method.name} needs one fitness that is a sum over groups (weight-sharing-error, "
            f"activation-cosine, merge-error), got {', '.join(problem.objectives)}"
        )
    if len(problem.objectives) > 1 and not (method.multi_objective or _splits(method, problem)):
        raise UserError(f"method {method.name} takes one objective, got {', '.join(problem.objectives)}")
    check_first_objective(method, next(iter(problem.objectives)), runs_model=problem.partial is not None)
    for fact in sorted(method.needs):
        if getattr(problem, fact) is None:
            raise UserError(f"method {method.name} needs the {fact} of the heads, which this search was not given")


def check_first_objective(method: SearchMethod, name: str, *, runs_model: bool) -> None:
    """Refuse a first objective that does not run the model where the method wants one that does."""
    if method.on_parts and not runs_model:
        raise UserError(
            f"method {method.name} needs a first objective that runs the model (kl, healed-kl, perplexity), got {name}"
        )


def most_generations(method: SearchMethod, problem: Problem) -> int | None:
    """Generations that a search yields at most, for progress bars; None when it cannot be told."""
    if _splits(method, problem):
        return None
    if _goes_by_layer(method, problem):
        most = [method.most_generations(problem.layer_problem(layer)) for layer in range(problem.num_layers)]
        return None if None in most else 1 + sum(number or 0 for number in most)
    return method.most_generations(problem)


def _goes_by_layer(method: SearchMethod, problem: Problem) -> bool:
    """Where layers are independent and their numbers of groups given."""
    return problem.is_separable and method.by_layer and not method.splits_budget


def _splits(method: SearchMethod, problem: Problem) -> bool:
    """Where layers are independent but for the budget that they share, and the method does not split it itself."""
    shared = problem.layer_errors is not None and not problem.is_separable
    return shared and not method.splits_budget and (method.traces_curve or not method.whole_model)
