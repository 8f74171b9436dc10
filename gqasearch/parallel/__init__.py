"""One population, many workers: fitness functions that run the model, spread over processes or a Ray cluster.

Every value has the bits that one process gives: a value depends on its candidate alone, and the number of threads,
which may change the last bits of a sum, is the same in every worker.
"""

from gqasearch.parallel.blueprint import Blueprint
from gqasearch.parallel.choice import MOST, ONE, Workers, parse_workers
from gqasearch.parallel.evaluator import Evaluator
from gqasearch.parallel.spreading import spread_fitness
from gqasearch.parallel.starting import start_workers

__all__ = ["MOST", "ONE", "Blueprint", "Evaluator", "Workers", "parse_workers", "spread_fitness", "start_workers"]
