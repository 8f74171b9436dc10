"""Whether a fitness ranks as quality does, seen: every grouping by its rank in both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import rankdata

from gqasearch.reporting.plots._style import GREY, LINE_COLOURS, styled

ACROSS = 3
PANEL = 2.55


def rank_figure(sample: pd.DataFrame, fitness: Sequence[str], title: str) -> Figure:
    """Rank by held-out KL against rank by fitness, a panel per fitness; each pool has ranks of its own.

    ``sample``: the rows of one setting. A fitness that ranks well lies along the diagonal.
    """
    pools = list(dict.fromkeys(sample["pool"]))
    across = min(ACROSS, len(fitness))
    down = -(-len(fitness) // across)
    width, height = across * PANEL + 0.35, down * PANEL + 0.75
    with styled():
        figure = Figure(figsize=(width, height))
        figure.text(0.5 / width, 1 - 0.12 / height, title, weight="bold", va="top", size=10)
        for number, name in enumerate(fitness):
            row, column = divmod(number, across)
            left, bottom = 0.55 + column * PANEL, height - 0.75 - (row + 1) * PANEL + 0.6
            axes = figure.add_axes((left / width, bottom / height, 1.95 / width, 1.85 / height))
            _draw(axes, sample, name, pools)
            if column == 0:
                axes.set_ylabel("rank by held-out KL, best = 0", size=7.5)
            if number >= len(fitness) - across:
                axes.set_xlabel("rank by fitness, best = 0", size=7.5)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper right", ncols=2, fontsize=8, borderaxespad=0.2)
    return figure


def _draw(axes: Axes, sample: pd.DataFrame, name: str, pools: Sequence[str]) -> None:
    axes.plot([0, 1], [0, 1], color="#cccccc", linewidth=1, zorder=0)
    for index, pool in enumerate(pools):
        rows = sample[sample["pool"] == pool]
        x, y = _ranks(rows[name]), _ranks(rows["held_out_kl"])
        axes.plot(
            x, y, "os"[index % 2], markersize=3.6, color=LINE_COLOURS[index], alpha=0.75, markeredgewidth=0, label=pool
        )
    axes.set_title(name, size=8.5)
    axes.set_xlim(-0.05, 1.05)
    axes.set_ylim(-0.05, 1.05)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.tick_params(labelsize=7, labelcolor=GREY)


def _ranks(values: pd.Series) -> np.ndarray:
    """Ranks from 0 to 1."""
    ranks = rankdata(values.to_numpy(dtype=np.float64))
    return np.asarray((ranks - 1) / max(len(ranks) - 1, 1))
