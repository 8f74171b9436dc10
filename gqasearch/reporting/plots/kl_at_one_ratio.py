"""The distance to the parent of models with as many KV heads: a row each, where a curve would be one point."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gqasearch.reporting.distance import Distance
from gqasearch.reporting.numbers import number_text
from gqasearch.reporting.plots._style import GREY, LINE_COLOURS, plain_log_axis, styled


def one_ratio_figure(values: pd.Series[float], distance: Distance) -> Figure:
    """A row for each finite value above 0, lowest last, its figure beside it; the axis is logarithmic.

    ``values``: name of a model -> its distance.
    """
    shown = values[np.isfinite(values) & (values > 0)].sort_values(ascending=False, kind="stable")
    left = 0.2 + 0.075 * max(map(len, shown.index))
    with styled():
        width, height = left + 5.6, 0.75 + 0.34 * len(shown)
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((left / width, 0.55 / height, 4.7 / width, (height - 0.65) / height))
        plain_log_axis(axes, "x")
        places = np.arange(len(shown))[::-1]
        best = places == places.min()
        axes.scatter(shown, places, s=46, color=np.where(best, LINE_COLOURS[0], GREY), zorder=3)
        for place, value in zip(places, shown, strict=True):
            axes.annotate(number_text(value), (value, place), (8, 0), textcoords="offset points", va="center", size=8.5)
        axes.set_yticks(places, list(shown.index))
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.set_xlim(float(shown.min()) / 1.5, float(shown.max()) * 1.9)
        axes.grid(True, axis="y")
        axes.set_xlabel(distance.axis)
    return figure
