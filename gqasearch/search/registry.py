"""Search methods by name."""

from __future__ import annotations

from typing import Any

from gqasearch.errors import unknown_name
from gqasearch.parameters import construct
from gqasearch.search._base import SearchMethod
from gqasearch.search.agglomerative import Agglomerative
from gqasearch.search.annealing import Annealing
from gqasearch.search.cma_es import CMAES
from gqasearch.search.deap_stock import DeapStock
from gqasearch.search.evolution import Evolution
from gqasearch.search.exact import Exact
from gqasearch.search.hill_climb import HillClimb
from gqasearch.search.k_means import KMeans
from gqasearch.search.neighbour import Neighbour
from gqasearch.search.norm_sort import NormSort
from gqasearch.search.random_search import RandomSearch
from gqasearch.search.tpe import TPE

METHODS: tuple[type[SearchMethod], ...] = (
    Evolution,
    Exact,
    Neighbour,
    RandomSearch,
    NormSort,
    Agglomerative,
    KMeans,
    HillClimb,
    Annealing,
    TPE,
    CMAES,
    DeapStock,
)


def available_methods() -> dict[str, type[SearchMethod]]:
    """Name -> class."""
    return {method.name: method for method in METHODS}


def make_method(name: str, parameters: dict[str, Any] | None = None) -> SearchMethod:
    """The method of this name; an unknown name or parameter is a ``UserError`` with the nearest valid one."""
    known = available_methods()
    if name not in known:
        raise unknown_name("method", name, known)
    return construct(known[name], f"method {name}", parameters or {})
