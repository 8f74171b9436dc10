"""How well every fitness ranks: a forest plot of correlations with their intervals."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gqasearch.reporting.comparison import SETTING, setting_words
from gqasearch.reporting.plots._style import GREY, LINE_COLOURS, styled

ROW = 0.34
TICKS = (-1.0, -0.5, 0.0, 0.5, 1.0)


def correlation_figure(ranking: pd.DataFrame) -> Figure:
    """Spearman's correlation with held-out KL and its 95% interval, a panel per merge and KV ratio."""
    rows = ranking[ranking["quality"] == "kl"]
    parts = list(rows.groupby(SETTING, sort=False))
    names = list(dict.fromkeys(rows["fitness"]))
    pools = list(dict.fromkeys(rows["pool"]))
    across = min(2, len(parts))
    down = -(-len(parts) // across)
    labels = 0.3 + 0.068 * max(map(len, names))
    panel, each = 2.75, ROW * len(names) + 0.95
    width, height = labels + across * (panel + 0.3), down * each + 0.2
    with styled():
        figure = Figure(figsize=(width, height))
        for number, (key, part) in enumerate(parts):
            row, column = divmod(number, across)
            left, bottom = labels + column * (panel + 0.3), height - 0.1 - (row + 1) * each + 0.5
            axes = figure.add_axes((left / width, bottom / height, panel / width, ROW * len(names) / height))
            _draw(axes, part, names, pools, named=column == 0)
            axes.set_title(setting_words(*key), size=9)
            if row == down - 1 or number + across >= len(parts):
                axes.set_xlabel("Spearman with held-out KL, 95% interval", size=8)
        handles, texts = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="upper left", ncols=2, fontsize=8, borderaxespad=0.2)
    return figure


def _draw(axes: Axes, part: pd.DataFrame, names: list[str], pools: list[str], *, named: bool) -> None:
    axes.axvline(0, color="#555555", linewidth=1, zorder=1)
    for offset, pool in enumerate(pools):
        found = part[part["pool"] == pool].set_index("fitness")
        height = [
            place + (offset - (len(pools) - 1) / 2) * 0.3 for place, name in enumerate(names) if name in found.index
        ]
        found = found.loc[[name for name in names if name in found.index]]
        middle = found["spearman"]
        axes.hlines(height, found["spearman_low"], found["spearman_high"], color=LINE_COLOURS[offset], linewidth=1.6)
        axes.plot(middle, height, "os"[offset % 2], markersize=5, color=LINE_COLOURS[offset], label=f"{pool} groupings")
    axes.set_xlim(-1.03, 1.03)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names if named else [""] * len(names))
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8)
    axes.tick_params(axis="x", labelcolor=GREY)
    axes.spines["left"].set_visible(False)
