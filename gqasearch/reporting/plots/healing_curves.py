"""What healing brings: KL to the parent and perplexity on validation text against tokens trained on."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from gqasearch.reporting.healing import HealingData
from gqasearch.reporting.healing_tables import curves
from gqasearch.reporting.plots._style import GREY, LINE_COLOURS, MARKERS, plain_log_axis, styled

PANELS = {"kl": "KL to the parent on validation text, nats", "perplexity": "perplexity on validation text"}


def healing_figure(data: HealingData) -> Figure:
    """Two panels, one line per start: the median over seeds, and a band from the lowest to the highest.

    Tokens are linear up to the first evaluation and logarithmic from there, so that the start at 0 is on the axis.
    """
    labels = list(data.starts)
    with styled():
        # Names of starts are long: they stand below both panels, one above the other.
        legend = 0.1 + 0.19 * len(labels)
        height = 3.75 + legend
        figure = Figure(figsize=(9.4, height))
        for column, (name, words) in enumerate(PANELS.items()):
            box = ((0.75 + 4.65 * column) / 9.4, (legend + 0.55) / height, 3.7 / 9.4, 3.0 / height)
            axes = figure.add_axes(box)
            _draw(axes, curves(data, name), labels)
            axes.set_ylabel(words)
            axes.set_xlabel("tokens trained on")
            if name == "perplexity" and data.validation_perplexity is not None:
                _parent_line(axes, data.validation_perplexity)
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="lower left", bbox_to_anchor=(0.7 / 9.4, 0.05 / height), borderaxespad=0)
    return figure


def _draw(axes: Axes, table: pd.DataFrame, labels: list[str]) -> None:
    shown = table[np.isfinite(table["median"]) & (table["lowest"] > 0)]
    if shown.empty:
        axes.text(0.5, 0.5, "nothing finite and above 0 was measured", ha="center", transform=axes.transAxes)
        return
    plain_log_axis(axes, "y")
    for number, label in enumerate(labels):
        line = shown[shown["start"] == label]
        colour = LINE_COLOURS[number % len(LINE_COLOURS)]
        dashes = ("-", "--", ":")[number // len(LINE_COLOURS) % 3]
        marker = MARKERS[(number + number // len(MARKERS)) % len(MARKERS)]
        axes.fill_between(line["tokens"], line["lowest"], line["highest"], color=colour, alpha=0.2, linewidth=0)
        axes.plot(line["tokens"], line["median"], dashes, marker=marker, markersize=4, color=colour, label=label)
    _tokens_axis(axes, sorted(shown["tokens"].unique()))
    low, high = float(shown["lowest"].min()), float(shown["highest"].max())
    margin = max((high / low) ** 0.06, 1.01)
    axes.set_ylim(low / margin, high * margin)
    axes.grid(True)
    axes.set_axisbelow(True)


def _tokens_axis(axes: Axes, measured: list[int]) -> None:
    """From 0, which a log axis cannot show, in one straight piece to the first evaluation."""
    after = [tokens for tokens in measured if tokens > 0]
    if not after:
        axes.set_xticks([0])
        return
    first, last = after[0], after[-1]
    axes.set_xscale("symlog", linthresh=first, linscale=0.6)
    axes.set_xlim(-0.06 * first, last * (last / first) ** 0.03 if last > first else 1.1 * first)
    ticks = [0, first]
    while ticks[-1] * 2 <= last:
        ticks.append(ticks[-1] * 2)
    step = max(1, -(-(len(ticks) - 1) // 6))
    axes.xaxis.set_major_locator(FixedLocator([0, *ticks[1::step]]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda tokens, _: short_count(tokens))


def short_count(tokens: float) -> str:
    """1,536 as 1.5k, 2,097,152 as 2.1M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if tokens >= size:
            value = tokens / size
            return f"{value:.3g}{letter}" if value < 100 else f"{value:.0f}{letter}"
    return f"{tokens:.0f}"


def _parent_line(axes: Axes, perplexity: float) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, perplexity * (low / high) ** 0.1), max(high, perplexity))
    axes.axhline(perplexity, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    # Below the line, at the left: what is healed comes down to it at the right.
    text = axes.annotate("parent", (0, perplexity), xycoords=("axes fraction", "data"), size=8, color=GREY)
    text.set(position=(3, -3), anncoords="offset points", verticalalignment="top")
