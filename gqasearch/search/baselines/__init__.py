"""What people would try first, to measure the rest against."""

from gqasearch.search.baselines.agglomerative import Agglomerative
from gqasearch.search.baselines.annealing import Annealing
from gqasearch.search.baselines.cma_es import CMAES
from gqasearch.search.baselines.deap_stock import DeapStock
from gqasearch.search.baselines.hill_climb import HillClimb
from gqasearch.search.baselines.k_means import KMeans
from gqasearch.search.baselines.neighbour import Neighbour
from gqasearch.search.baselines.norm_sort import NormSort
from gqasearch.search.baselines.random_search import RandomSearch
from gqasearch.search.baselines.tpe import TPE

__all__ = [
    "CMAES",
    "TPE",
    "Agglomerative",
    "Annealing",
    "DeapStock",
    "HillClimb",
    "KMeans",
    "Neighbour",
    "NormSort",
    "RandomSearch",
]
