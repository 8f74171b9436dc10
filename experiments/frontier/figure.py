"""KL against the bytes of the KV cache, one line per number of heads."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gqasearch.reporting.plots._style import GREY, LINE_COLOURS, MARKERS, plain_log_axis, styled

LEAST = 1e-5  # what is below it is not drawn: a model in 16 bits
LEAST_SHARES = 3
RECIPE = "neighbours + mean"


def frontier_figure(rows: pd.DataFrame) -> Figure:
    """A panel per model of which several numbers of bytes were measured; points of a line differ in their bits."""
    shares = rows.groupby("model", sort=False)["kv_share"].nunique()
    models = [str(model) for model, count in shares.items() if count >= LEAST_SHARES]
    with styled():
        figure = Figure(figsize=(7.2, 4.8 * len(models)), layout="constrained")
        for axes, model in zip(figure.subplots(len(models), 1, squeeze=False).flat, models, strict=True):
            _draw(axes, rows[rows["model"] == model])
            axes.set_title(f"{model}: fewer heads, fewer bits, both")
    return figure


def _draw(axes: Axes, rows: pd.DataFrame) -> None:
    ours = 0
    for number, (heads, line) in enumerate(rows.groupby("heads", sort=False)):
        line = line[line["kl"] >= LEAST].sort_values("kv_share")
        look: dict[str, Any] = {
            "color": GREY,
            "marker": MARKERS[number % len(MARKERS)],
            "markersize": 5,
            "linewidth": 1.3,
        }
        if str(heads).endswith(RECIPE):
            look["linestyle"] = "--"
        else:
            look["color"] = LINE_COLOURS[ours % len(LINE_COLOURS)]
            ours += 1
        axes.plot(line["kv_share"], line["kl"], **look, label=str(heads))
        for bits, *place in zip(line["format"], line["kv_share"], line["kl"], strict=True):
            axes.annotate(str(bits), tuple(place), (4, 4), textcoords="offset points", size=7, color=look["color"])
    axes.margins(y=0.1)
    plain_log_axis(axes, "x")
    plain_log_axis(axes, "y")
    axes.grid(True)
    axes.set_axisbelow(True)
    axes.set_xlabel("KV bytes over those of all heads in 16 bits, scales and zero points counted")
    axes.set_ylabel("KL to the parent, nats per token")
    axes.legend(fontsize=8)
