"""Fitness functions side by side: does each rank as quality does, and does optimising it give better models?

Two questions that have different answers: a fitness may rank random groupings well and fail among the best ones, or
find a good model by ranking no more than the few that matter.
"""

from gqasearch.comparison.compare import compare
from gqasearch.comparison.comparison_config import ComparisonConfig, build_comparison
from gqasearch.comparison.comparison_folder import ComparisonFolder
from gqasearch.comparison.comparison_report import comparison_data

__all__ = ["ComparisonConfig", "ComparisonFolder", "build_comparison", "compare", "comparison_data"]
