"""Search: from objectives over groupings to good groupings. Knows nothing of models."""

from gqasearch.group_errors import GroupErrors, PairwiseErrors, SetErrors
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.limit import NO_LIMIT, Limit
from gqasearch.searching.methods import METHOD_REGISTRY, available_methods, make_method
from gqasearch.searching.problem import FAILED, Candidate, Generation, Objective, Problem
from gqasearch.searching.runner import (
    check_first_objective,
    check_takes,
    may_take_several,
    most_generations,
)

__all__ = [
    "FAILED",
    "METHOD_REGISTRY",
    "NO_LIMIT",
    "Candidate",
    "Generation",
    "GroupErrors",
    "Limit",
    "Objective",
    "PairwiseErrors",
    "Problem",
    "SearchMethod",
    "SetErrors",
    "available_methods",
    "check_first_objective",
    "check_takes",
    "make_method",
    "may_take_several",
    "most_generations",
]
