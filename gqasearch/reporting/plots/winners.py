"""What optimising each fitness gives: the winners' KL, and how far they are from a model without a search."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gqasearch.reporting.comparison import NOTHING, SETTING, setting_words, winner_names
from gqasearch.reporting.plots._style import GREY, LINE_COLOURS, styled

ROW = 0.32


def winners_figure(winners: pd.DataFrame) -> Figure:
    """Per merge and KV ratio two panels: held-out KL of every winner with its range over seeds, and its difference from
    neighbours with the 95% interval over text blocks. Left of the line is better.
    """
    parts = list(winners.groupby(SETTING, sort=False))
    names = [winner_names(part) for _, part in parts]
    labels = 0.3 + 0.068 * max(len(name) for part in names for name in part)
    width = labels + 5.7
    heights = [ROW * len(part) + 1.0 for part in names]
    height = sum(heights)
    with styled():
        figure = Figure(figsize=(width, height))
        top = height
        for (key, part), rows, each in zip(parts, names, heights, strict=True):
            box = ROW * len(rows)
            for column, draw in enumerate((_draw_kl, _draw_difference)):
                left, bottom = labels + column * 2.85, top - 0.4 - box
                axes = figure.add_axes((left / width, bottom / height, 2.55 / width, box / height))
                draw(axes, part.reset_index(drop=True))
                _dress(axes, rows if column == 0 else [""] * len(rows))
            figure.text(labels / width, (top - 0.14) / height, setting_words(*key), weight="bold", size=9.5, va="top")
            top -= each
    return figure


def _draw_kl(axes: Axes, part: pd.DataFrame) -> None:
    axes.hlines(part.index, part["kl_lowest"], part["kl_highest"], color=LINE_COLOURS[0], linewidth=2)
    axes.plot(part["kl"], part.index, "o", markersize=5, color=LINE_COLOURS[0])
    axes.set_xlabel("held-out KL, mean and range over seeds", size=8)


def _draw_difference(axes: Axes, part: pd.DataFrame) -> None:
    axes.axvline(0, color="#555555", linewidth=1, zorder=1)
    rows = part[part["needs"] != NOTHING]
    axes.hlines(rows.index, rows["vs_no_search_low"], rows["vs_no_search_high"], color=LINE_COLOURS[1], linewidth=2)
    axes.plot(rows["vs_no_search"], rows.index, "s", markersize=4.5, color=LINE_COLOURS[1])
    axes.set_xlabel("KL less that of neighbours, 95% over blocks", size=8)


def _dress(axes: Axes, names: list[str]) -> None:
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8)
    axes.tick_params(axis="x", labelcolor=GREY, labelsize=7.5)
    axes.spines["left"].set_visible(False)
