"""gqasearch: turn a multi-head attention checkpoint into a grouped-query one that keeps its quality.

    import gqasearch as gqs

    parent = gqs.load("path/to/llama", text="wiki.txt")
    result = gqs.search(parent, kv_ratio=0.5, fitness=gqs.MergeError(), method=gqs.Evolution(population=64))
    result.save("converted")

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gqasearch.api import ParentWithText, SearchResult, converted, load, neighbours, search, similarity
    from gqasearch.comparison.from_python import compare
    from gqasearch.errors import UserError
    from gqasearch.fitness import Fitness
    from gqasearch.grouping import Grouping, LayerGrouping
    from gqasearch.merging import Aligned, AlignedRenorm, Mean, MeanRenorm, Medoid, Merge, Optimal, WeightedMean
    from gqasearch.refining import Descent, Joint, NoRefinement, Outputs, Refinement
    from gqasearch.searching import SearchMethod
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
    from gqasearch.separate_grouping import SeparateGrouping
    from gqasearch_fitness.activation_cosine import ActivationCosine
    from gqasearch_fitness.attention_output_error import AttentionOutputError
    from gqasearch_fitness.healed_kl import HealedKL
    from gqasearch_fitness.kl import KLToParent as KL  # noqa: N814
    from gqasearch_fitness.merge_error import MergeError
    from gqasearch_fitness.perplexity import Perplexity
    from gqasearch_fitness.weight_sharing_error import WeightSharingError

_MODULES = {
    "gqasearch.api": ("ParentWithText", "SearchResult", "converted", "load", "neighbours", "search", "similarity"),
    "gqasearch.comparison.from_python": ("compare",),
    "gqasearch.errors": ("UserError",),
    "gqasearch.fitness": ("Fitness",),
    "gqasearch.grouping": ("Grouping", "LayerGrouping"),
    "gqasearch.separate_grouping": ("SeparateGrouping",),
    "gqasearch.merging": (
        *("Aligned", "AlignedRenorm", "Mean", "MeanRenorm", "Medoid", "Merge", "Optimal", "WeightedMean"),
    ),
    "gqasearch.refining": ("Descent", "Joint", "NoRefinement", "Outputs", "Refinement"),
    "gqasearch.searching": ("SearchMethod",),
    "gqasearch.searching.baselines": (
        *("CMAES", "TPE", "Agglomerative", "Annealing", "DeapStock", "HillClimb", "KMeans", "Neighbour"),
        *("NormSort", "RandomSearch"),
    ),
    "gqasearch.searching.evolution": ("Evolution",),
    "gqasearch.searching.exact": ("Exact",),
    "gqasearch.searching.papers": ("AsymGQA", "QCQAArbitrary", "QCQAEqual"),
    "gqasearch.searching.staged": ("Staged",),
}
# Fitness functions are plug-ins, the built-in ones, too: found by their names.
_FITNESS = {
    "ActivationCosine": "activation-cosine",
    "AttentionOutputError": "attention-output-error",
    "HealedKL": "healed-kl",
    "KL": "kl",
    "MergeError": "merge-error",
    "Perplexity": "perplexity",
    "WeightSharingError": "weight-sharing-error",
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "CMAES",
    "KL",
    "TPE",
    "ActivationCosine",
    "Agglomerative",
    "Aligned",
    "AlignedRenorm",
    "Annealing",
    "AsymGQA",
    "AttentionOutputError",
    "DeapStock",
    "Descent",
    "Evolution",
    "Exact",
    "Fitness",
    "Grouping",
    "HealedKL",
    "HillClimb",
    "Joint",
    "KMeans",
    "LayerGrouping",
    "Mean",
    "MeanRenorm",
    "Medoid",
    "Merge",
    "MergeError",
    "Neighbour",
    "NoRefinement",
    "NormSort",
    "Optimal",
    "Outputs",
    "ParentWithText",
    "Perplexity",
    "QCQAArbitrary",
    "QCQAEqual",
    "RandomSearch",
    "Refinement",
    "SearchMethod",
    "SearchResult",
    "SeparateGrouping",
    "Staged",
    "UserError",
    "WeightSharingError",
    "WeightedMean",
    "__version__",
    "compare",
    "converted",
    "load",
    "neighbours",
    "search",
    "similarity",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE or name in _FITNESS:
        _load_tqdm()
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    if name in _FITNESS:
        return import_module("gqasearch.fitness").FITNESS.find(_FITNESS[name])
    raise AttributeError(f"module 'gqasearch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _load_tqdm() -> None:
    """Without its word that a notebook has no widgets for its bars, which it says when it is first loaded: what we load
    shows none. The process's own filters of warnings stay as they are.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import_module("tqdm.auto")
