"""What people would try first, to measure the rest against."""

from gqasearch.searching.baselines.agglomerative import Agglomerative
from gqasearch.searching.baselines.annealing import Annealing
from gqasearch.searching.baselines.cma_es import CMAES
from gqasearch.searching.baselines.deap_stock import DeapStock
from gqasearch.searching.baselines.hill_climb import HillClimb
from gqasearch.searching.baselines.k_means import KMeans
from gqasearch.searching.baselines.neighbour import Neighbour
from gqasearch.searching.baselines.norm_sort import NormSort
from gqasearch.searching.baselines.random_search import RandomSearch
from gqasearch.searching.baselines.tpe import TPE

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
