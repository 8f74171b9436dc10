"""A comparison as one self-contained page. Opens offline, runs no script."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from gqasearch.files import write_file
from gqasearch.reporting.comparison import SETTING, ComparisonData, ranking_tables, setting_words, winner_tables
from gqasearch.reporting.html import Picture, data_uri, load_template, raster, vector
from gqasearch.reporting.plots.correlations import correlation_figure
from gqasearch.reporting.plots.rank_agreement import rank_figure
from gqasearch.reporting.plots.winners import winners_figure

NOT_FITNESS = {*SETTING, "pool", "grouping", "met_by", "held_out_kl", "held_out_perplexity"}


def comparison_figures(data: ComparisonData) -> dict[str, Figure]:
    """Name -> figure, of all that there is to draw."""
    figures: dict[str, Figure] = {}
    if not data.ranking.empty:
        figures["correlations"] = correlation_figure(data.ranking)
        fitness = [str(name) for name in data.sample.columns if name not in NOT_FITNESS]
        for key, rows in data.sample.groupby(SETTING, sort=False):
            merge, _, ratio = key
            figures[f"ranks-{merge}-{ratio:g}"] = rank_figure(rows, fitness, setting_words(*key))
    if not data.winners.empty:
        figures["winners"] = winners_figure(data.winners)
    return figures


def render_comparison(data: ComparisonData) -> str:
    """The page as text. Every string of ``data`` is escaped."""
    figures = comparison_figures(data)
    frames = {"ranking": data.ranking, "sample": data.sample, "winners": data.winners}
    return load_template("comparison.html.j2").render(
        data=data,
        rankings=ranking_tables(data.ranking),
        winners=winner_tables(data.winners),
        correlations=_picture(figures, "correlations", "Spearman's correlation with held-out KL, by fitness"),
        ranks=[
            raster(figure, "Rank by held-out KL against rank by fitness, one dot per grouping")
            for name, figure in figures.items()
            if name.startswith("ranks-")
        ],
        winner_plot=_picture(figures, "winners", "Held-out KL of every winner and its difference from neighbours"),
        csv={
            name: data_uri("text/csv", frame.to_csv(index=False, lineterminator="\n").encode())
            for name, frame in frames.items()
            if not frame.empty
        },
    )


def write_comparison(path: Path, data: ComparisonData) -> None:
    """Write the page to ``path``, whole or not at all."""
    write_file(path, render_comparison(data), overwrite=True)


def _picture(figures: dict[str, Figure], name: str, alt: str) -> Picture | None:
    return vector(figures[name], alt) if name in figures else None
