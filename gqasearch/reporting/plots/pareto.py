"""The non-dominated candidates of a search with several objectives."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gqasearch.reporting.data import ParetoFront
from gqasearch.reporting.plots._style import LINE_COLOURS, plain_log_axis, styled


def pareto_figure(front: ParetoFront) -> Figure:
    """A scatter per pair of objectives; the candidate that was written is ringed. All are lower-is-better."""
    pairs = list(combinations(range(len(front.objectives)), 2))
    across = min(len(pairs), 3)
    down = -(-len(pairs) // across)
    width = 6.4 if len(pairs) == 1 else 3.2 * across
    with styled():
        figure = Figure(figsize=(width, (4.0 if len(pairs) == 1 else 3.0) * down), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat[len(pairs) :]:
            axes.set_visible(False)
        for axes, (first, second) in zip(grid.flat, pairs, strict=False):
            _draw_pair(axes, front, first, second)
    return figure


def _draw_pair(axes: Axes, front: ParetoFront, first: int, second: int) -> None:
    points = np.array(front.points, dtype=np.float64).reshape(-1, len(front.objectives))[:, [first, second]]
    others = np.array(front.dominated, dtype=np.float64).reshape(-1, len(front.objectives))[:, [first, second]]
    axes.plot(others[:, 0], others[:, 1], "o", markersize=4, color="#bbbbbb")
    ordered = points[np.lexsort((points[:, 1], points[:, 0]))]
    if len(front.objectives) == 2:
        # Between two points nothing was found that is better than both: the front is a staircase.
        axes.step(ordered[:, 0], ordered[:, 1], where="post", color="#bbbbbb", linewidth=1)
    axes.plot(ordered[:, 0], ordered[:, 1], "o", markersize=5, color=LINE_COLOURS[0])
    for label, point in zip(front.labels, front.points, strict=False):
        place = point[first], point[second]
        axes.annotate(label, place, (4, -9), textcoords="offset points", size=7, color=LINE_COLOURS[0])
    if front.chosen is not None:
        chosen = points[front.chosen]
        axes.plot(
            *chosen, "o", markersize=11, markerfacecolor="none", markeredgecolor=LINE_COLOURS[1], markeredgewidth=1.8
        )
        axes.annotate(
            "written to grouping.json", chosen, (8, 8), textcoords="offset points", size=8, color=LINE_COLOURS[1]
        )
    for which, column in zip("xy", np.concatenate([points, others]).T, strict=True):
        if column.size and column.min() > 0 and column.max() / column.min() > 10:
            plain_log_axis(axes, which)
    axes.grid(True)
    axes.set_axisbelow(True)
    axes.set_xlabel(front.objectives[first])
    axes.set_ylabel(front.objectives[second])
