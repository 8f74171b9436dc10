"""KL against the bytes of the KV cache, one line per number of heads."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gqasearch.reporting.plots._style import GREY, LINE_COLOURS, MARKERS, plain_log_axis, styled

LEAST = 1e-5  # below it all is alike


def frontier_figure(rows: pd.DataFrame) -> Figure:
    """A panel per model; points of a line differ in their bits."""
    models = list(dict.fromkeys(rows["model"]))
    with styled():
        figure = Figure(figsize=(7.2, 4.8 * len(models)), layout="constrained")
        for axes, model in zip(figure.subplots(len(models), 1, squeeze=False).flat, models, strict=True):
            _draw(axes, rows[rows["model"] == model])
            axes.set_title(f"{model}: fewer heads, fewer bits, both")
    return figure


def _draw(axes: Axes, rows: pd.DataFrame) -> None:
    for number, (heads, line) in enumerate(rows.groupby("heads", sort=False)):
        line = line.sort_values("kv_share")
        colour, marker = LINE_COLOURS[number % len(LINE_COLOURS)], MARKERS[number % len(MARKERS)]
        style = "--" if "mean" in str(heads) else "-"
        look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.3}
        axes.plot(line["kv_share"], line["kl"], style, **look, label=str(heads))
        for bits, *place in zip(line["format"], line["kv_share"], line["kl"], strict=True):
            axes.annotate(str(bits), tuple(place), (4, 4), textcoords="offset points", size=7, color=GREY)
    axes.set_ylim(bottom=LEAST)
    plain_log_axis(axes, "x")
    plain_log_axis(axes, "y")
    axes.grid(True)
    axes.set_axisbelow(True)
    axes.set_xlabel("KV bytes over those of all heads in 16 bits, scales and zero points counted")
    axes.set_ylabel("KL to the parent, nats per token")
    axes.legend(fontsize=8)
