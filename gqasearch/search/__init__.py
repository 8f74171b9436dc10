"""Search: from objectives over groupings to good groupings. Knows nothing of models."""

from gqasearch.search._base import SearchMethod
from gqasearch.search.problem import Candidate, Generation, Objective, Problem
from gqasearch.search.registry import available_methods, make_method
from gqasearch.search.runner import most_generations, run_search

__all__ = [
    "Candidate",
    "Generation",
    "Objective",
    "Problem",
    "SearchMethod",
    "available_methods",
    "make_method",
    "most_generations",
    "run_search",
]
