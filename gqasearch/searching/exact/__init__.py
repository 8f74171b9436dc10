"""Exact methods: best partitions with proof, or the gap that is left."""

from gqasearch.searching.exact.certificate import CLOSED_GAP, Certificate
from gqasearch.searching.exact.column_generation import solve_pairwise
from gqasearch.searching.exact.exact import Exact
from gqasearch.searching.exact.prover import Prover, check_provable
from gqasearch.searching.exact.subset_dp import MAX_HEADS, SubsetOptima, solve_subsets, tabulate_errors

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
