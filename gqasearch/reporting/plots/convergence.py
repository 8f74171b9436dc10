"""How fast each search got better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gqasearch.reporting.data import FloatArray, History, MethodResult
from gqasearch.reporting.plots._style import LINE_COLOURS, plain_log_axis, styled


def searched(results: Sequence[MethodResult]) -> list[MethodResult]:
    """The results with a history of two generations or more; a baseline evaluates once and has no curve."""
    return [result for result in results if any(len(line.points) > 1 for line in result.history)]


def convergence_figure(results: Sequence[MethodResult]) -> Figure:
    """Best fitness so far against evaluations, one panel per result of :func:`searched`.

    Panels have their own vertical axis: the values of two fitness functions cannot be compared. A run has one
    line, of the whole model, which falls in steps where layers are searched one after the other.
    Raises ``ValueError`` when there is none.
    """
    shown = searched(results)
    if not shown:
        raise ValueError("none of the results has a history of two generations")
    across = min(len(shown), 3)
    down = -(-len(shown) // across)
    labels = list(dict.fromkeys(line.label for result in shown for line in result.history))
    colours = dict(zip(labels, _colours(len(labels)), strict=True))
    legend_rows = -(-len(labels) // 10) if len(labels) > 1 else 0
    with styled():
        width, height = 3.2 * across, 2.7 * down + 0.25 * legend_rows
        figure = Figure(figsize=(width, height))
        for number, result in enumerate(shown):
            row, column = divmod(number, across)
            left, bottom = 3.2 * column + 0.62, height - 2.7 * row - 2.22
            axes = figure.add_axes((left / width, bottom / height, 2.45 / width, 1.75 / height))
            _draw_panel(axes, result, colours)
        if legend_rows:
            lines = [Line2D([], [], color=colours[label]) for label in labels]
            figure.legend(lines, labels, loc="lower center", ncols=min(len(labels), 10), fontsize=7.5)
    return figure


def _draw_panel(axes: Axes, result: MethodResult, colours: Mapping[str, str]) -> None:
    for line in result.history:
        evaluations, best = _series(line)
        # The best stays what it was until a generation betters it: a staircase. A lone point needs a marker.
        axes.step(evaluations, best, where="post", color=colours[line.label], linewidth=1.4)
        axes.plot(evaluations[-1:], best[-1:], marker="o", markersize=3, color=colours[line.label])
    evaluations = np.concatenate([_series(line)[0] for line in result.history])
    best = np.concatenate([_series(line)[1] for line in result.history])
    if _spans(evaluations, 50):
        plain_log_axis(axes, "x")
    if _spans(best, 10):
        plain_log_axis(axes, "y")
    axes.grid(True)
    axes.set_title(f"{result.label}\nKV ratio {result.kv_ratio:.3g}", fontsize=8.5)
    axes.set_xlabel("evaluations", fontsize=8)
    axes.set_ylabel(f"best {result.fitness or 'fitness'}", fontsize=8)
    axes.tick_params(labelsize=7)


def _series(line: History) -> tuple[FloatArray, FloatArray]:
    """Evaluations and best, only where the best changed, and the end: a long search stays a small picture."""
    points = line.points
    kept = [p for i, p in enumerate(points) if i in (0, len(points) - 1) or p.best != points[i - 1].best]
    return np.array([p.evaluations for p in kept], dtype=np.float64), np.array([p.best for p in kept], dtype=np.float64)


def _spans(values: FloatArray, factor: float) -> bool:
    """True when a linear axis would hide the small values."""
    return bool(values.size and values.min() > 0 and values.max() / values.min() > factor)


def _colours(count: int) -> list[str]:
    """Distinct colours for a few lines, a dark-to-light ramp by depth for many."""
    if count <= len(LINE_COLOURS):
        return list(LINE_COLOURS[:count])
    ramp = mpl.colormaps["viridis"]
    return [to_hex(ramp(position)) for position in np.linspace(0, 0.88, count)]
