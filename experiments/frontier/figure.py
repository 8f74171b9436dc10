"""Loss against the bytes of the KV cache, one line per way."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.frontier.tables import loss_name, over_seeds
from gqasearch.reporting.plots._style import GREY, LINE_COLOURS, MARKERS, plain_log_axis, styled

LEAST = 1e-5  # what is below it is not drawn: a model in 16 bits
RECIPE, RIVAL = "neighbours", "low rank"


def frontier_figure(model: str, rows: pd.DataFrame) -> Figure:
    """Points of a line differ in their bits; published recipes and low rank are grey."""
    with styled():
        figure = Figure(figsize=(7.6, 6.4), layout="constrained")
        axes = figure.subplots()
        _draw(axes, over_seeds(rows))
        axes.set_title(f"{model}: fewer heads, fewer bits, both")
        axes.set_ylabel("KL to the parent, nats per token" if loss_name(rows) == "KL" else "1 - cosine to the parent's")
    return figure


def _draw(axes: Axes, rows: pd.DataFrame) -> None:
    ours = 0
    for number, (way, line) in enumerate(rows.groupby("way", sort=False)):
        line = line[line["loss"] >= LEAST].sort_values("kv_share")
        look: dict[str, Any] = {"color": GREY, "marker": MARKERS[number % len(MARKERS)], "markersize": 5}
        look |= {"linewidth": 1.2, "linestyle": "--" if RECIPE in str(way) else ":"}
        if RECIPE not in str(way) and RIVAL not in str(way):
            look |= {"color": LINE_COLOURS[ours % len(LINE_COLOURS)], "linestyle": "-"}
            ours += 1
        axes.plot(line["kv_share"], line["loss"], **look, label=str(way))
        for bits, *place in zip(line["format"], line["kv_share"], line["loss"], strict=True):
            axes.annotate(str(bits), tuple(place), (4, 4), textcoords="offset points", size=6, color=look["color"])
    axes.margins(y=0.1)
    plain_log_axis(axes, "x")
    plain_log_axis(axes, "y")
    axes.grid(True)
    axes.set_axisbelow(True)
    axes.set_xlabel("KV bytes over those of all heads in 16 bits, scales and zero points counted")
    axes.legend(fontsize=6, ncols=2)
