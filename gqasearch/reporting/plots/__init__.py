"""Figures of a report, one file each. Every function returns a matplotlib ``Figure``; pyplot is not used."""

from gqasearch.reporting.plots._style import (
    GREY,
    LINE_COLOURS,
    figure_png,
    figure_svg,
    figure_webp,
    plain_log_axis,
    styled,
)
from gqasearch.reporting.plots.convergence import convergence_figure, searched
from gqasearch.reporting.plots.kl_at_one_ratio import one_ratio_figure
from gqasearch.reporting.plots.kl_by_ratio import kl_figure, rounded_figure
from gqasearch.reporting.plots.pareto import pareto_figure
from gqasearch.reporting.plots.shared_heads import grouping_figure
from gqasearch.reporting.plots.similarity import similarity_figure

__all__ = [
    "GREY",
    "LINE_COLOURS",
    "convergence_figure",
    "figure_png",
    "figure_svg",
    "figure_webp",
    "grouping_figure",
    "kl_figure",
    "one_ratio_figure",
    "pareto_figure",
    "plain_log_axis",
    "rounded_figure",
    "searched",
    "similarity_figure",
    "styled",
]
