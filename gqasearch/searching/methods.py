"""Search methods by name."""

from __future__ import annotations

from typing import Any

from gqasearch.registry import Registry
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.baselines import (
    CMAES,
    TPE,
    Agglomerative,
    Annealing,
    DeapStock,
    HillClimb,
    KMeans,
    Neighbour,
    NormSort,
    RandomSearch,
)
from gqasearch.searching.evolution import Evolution
from gqasearch.searching.exact import Exact
from gqasearch.searching.papers import AsymGQA, QCQAArbitrary, QCQAEqual
from gqasearch.searching.staged import Staged

METHODS: tuple[type[SearchMethod], ...] = (
    Evolution,
    Staged,
    Exact,
    QCQAArbitrary,
    QCQAEqual,
    AsymGQA,
    Neighbour,
    RandomSearch,
    NormSort,
    Agglomerative,
    KMeans,
    HillClimb,
    Annealing,
    DeapStock,
    TPE,
    CMAES,
)


METHOD_REGISTRY: Registry[SearchMethod] = Registry(
    *("method", "gqasearch.methods", SearchMethod, ("name", "reference", "summary")),
    built_in={method.name: method for method in METHODS},
)


def available_methods() -> dict[str, type[SearchMethod]]:
    """Name -> class of every method that can be used."""
    return METHOD_REGISTRY.available()


def make_method(name: str, parameters: dict[str, Any] | None = None) -> SearchMethod:
    """The method of this name; an unknown name or parameter is a ``UserError`` with the nearest valid one."""
    return METHOD_REGISTRY.make(name, parameters)
