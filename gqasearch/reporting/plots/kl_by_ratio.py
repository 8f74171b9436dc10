"""The price of a smaller cache: the distance to the parent against KV ratio."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gqasearch.reporting.distance import KL, Distance, distance_of
from gqasearch.reporting.plots._style import GREY, LINE_COLOURS, MARKERS, plain_log_axis, styled
from gqasearch.reporting.rounded_rows import RoundedResult, kl_by_share
from gqasearch.reporting.tables import distance_by_ratio


def kl_figure(frame: pd.DataFrame) -> Figure:
    """KL to the parent, or what stands in its place (log), against KV ratio (log), a line per name.

    A KL that a log axis cannot show (zero, infinite) is left out and counted in the note below the axes.
    """
    distance = distance_of(frame)
    note = f"The parent (KV ratio 1) has {distance.name} 0, which a log axis cannot show."
    return _lines_figure(distance_by_ratio(frame), note, "KV ratio (KV heads kept, of the parent's)", distance)


def rounded_figure(results: Sequence[RoundedResult]) -> Figure:
    """KL to the parent (log) against the bytes of the cache (log), a line per model, a point per format."""
    note = "The parent as it is stored has KL 0, which a log axis cannot show."
    return _lines_figure(kl_by_share(results), note, "KV bytes, of the parent's in 16 bits", KL)


def _lines_figure(table: pd.DataFrame, note: str, across: str, distance: Distance) -> Figure:
    shown = table.where(np.isfinite(table) & (table > 0))
    hidden = int(table.notna().sum().sum() - shown.notna().sum().sum())
    if hidden:
        note += f" Left out for the same reason, or because it is infinite: {hidden}."
    with styled():
        width = 6.6 + 0.075 * max(map(len, shown.columns), default=0)
        figure = Figure(figsize=(width, 4.3))
        axes = figure.add_axes((0.72 / width, 0.19, 5.4 / width, 0.76))
        _draw_lines(axes, shown, distance)
        axes.grid(True)
        axes.set_xlabel(across)
        axes.set_ylabel(distance.axis)
        figure.text(0.72 / width, 0.03, note, size=8, color=GREY)
    return figure


def _draw_lines(axes: Axes, shown: pd.DataFrame, distance: Distance) -> None:
    if not shown.notna().any(axis=None):
        axes.text(0.5, 0.5, f"no result has a finite {distance.name} above 0", ha="center", transform=axes.transAxes)
        return
    plain_log_axis(axes, "x")
    plain_log_axis(axes, "y")
    ends: list[tuple[str, str, float, float]] = []
    for number, name in enumerate(shown.columns):
        line = shown[name].dropna()
        if line.empty:
            continue
        colour = LINE_COLOURS[number % len(LINE_COLOURS)]
        # A second round through the colours is told apart by its dashes and markers.
        dashes = ("-", "--", ":")[number // len(LINE_COLOURS) % 3]
        marker = MARKERS[(number + number // len(MARKERS)) % len(MARKERS)]
        axes.plot(line.index, line, color=colour, linestyle=dashes, marker=marker, markersize=6, label=str(name))
        ends.append((str(name), colour, float(line.index[0]), float(line.iloc[0])))
    results_at = shown.notna().sum(axis=1)
    ratios = [float(ratio) for ratio in results_at[results_at > 0].sort_values(ascending=False, kind="stable").index]
    axes.set_xlim(min(ratios) / 1.15, max(ratios) * 1.15)
    axes.set_xticks(_apart(ratios, axes), minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda ratio, _: f"{ratio:.3g}")
    axes.set_ylim(*_padded(shown.to_numpy()))
    _label_ends(axes, ends)


def _padded(values: np.ndarray) -> tuple[float, float]:
    return float(np.nanmin(values)) / 1.4, float(np.nanmax(values)) * 1.4


def _apart(ratios: Sequence[float], axes: Axes) -> list[float]:
    """The ratios that can be labelled without touching another label; the first ones given go first."""
    low, high = np.log(axes.get_xlim())
    kept: list[float] = []
    for ratio in ratios:
        if all(abs(np.log(ratio / other)) > 0.08 * (high - low) for other in kept):
            kept.append(ratio)
    return kept


def _label_ends(axes: Axes, ends: Sequence[tuple[str, str, float, float]]) -> None:
    """Name every line at the right, joined by a thread of its colour; no label covers another."""
    low, high = np.log(axes.get_ylim())
    ordered = sorted(ends, key=lambda end: end[3])
    wanted = [(np.log(kl) - low) / (high - low) for _, _, _, kl in ordered]
    gap = min(0.058, 1.0 / len(ordered))
    for (name, colour, ratio, kl), height in zip(ordered, spread(wanted, gap), strict=True):
        axes.annotate(
            name,
            xy=(ratio, kl),
            xytext=(1.04, height),
            textcoords="axes fraction",
            va="center",
            size=8.5,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "alpha": 0.5,
                "linewidth": 0.8,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 5,
            },
        )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending positions in 0..1, at least ``gap`` apart, near the wanted ones (ascending)."""
    placed: list[float] = []
    for position in wanted:
        placed.append(max(position, placed[-1] + gap) if placed else position)
    ceiling = 1.0
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed
