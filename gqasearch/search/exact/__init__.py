"""Exact methods: best partitions with proof, or the gap that is left."""

from gqasearch.search.exact.certificate import CLOSED_GAP, Certificate
from gqasearch.search.exact.column_generation import solve_pairwise
from gqasearch.search.exact.exact import Exact
from gqasearch.search.exact.prover import Prover, check_provable
from gqasearch.search.exact.subset_dp import MAX_HEADS, SubsetOptima, solve_subsets, tabulate_errors

__all__ = [
    "CLOSED_GAP",
    "MAX_HEADS",
    "Certificate",
    "Exact",
    "Prover",
    "SubsetOptima",
    "check_provable",
    "solve_pairwise",
    "solve_subsets",
    "tabulate_errors",
]
