"""The plot of the methods benchmark: how near every method is to the optimum, and when."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gqasearch.pairwise import FloatArray

# Methods drawn, the strongest and the papers' first, and their colours and line styles.
STYLES: dict[str, tuple[str, str]] = {
    "evolution": ("#d62728", "-"),
    "annealing": ("#1f77b4", "-"),
    "multi-start": ("#2ca02c", "-"),
    "hill-climb": ("#9467bd", "-"),
    "deap-stock": ("#8c564b", "--"),
    "pymoo NSGA-II": ("#e377c2", "--"),
    "qcqa-ac, stage 1": ("#ff7f0e", ":"),
    "qcqa-ec, stage 1": ("#bcbd22", ":"),
    "asymgqa, n=E": ("#17becf", ":"),
    "random": ("#7f7f7f", ":"),
}
# One candidate, no budget: a point where it is found.
POINTS = {"Ward + descent": "o", "Ward": "s"}
KINDS = {"trained": ("weights", "activations"), "clustered": ("clustered",), "gaussian": ("gaussian",)}
AXES = {"e": "evaluations", "s": "CPU seconds"}
# The gap axis is linear below this, so that it shows 0.
LINEAR = 0.1


def draw_methods(rows: pd.DataFrame, path: Path) -> None:
    """A panel for every kind of heads, by evaluations above and by CPU seconds below.

    Lines are medians over problems (EC and AC) and seeds, bands the quartiles; of methods that ran to E evaluations on
    some problems and seeds, over those alone; of those that never did, as far as all their runs got.
    """
    mpl.use("Agg")
    figure = Figure(figsize=(13, 8.2), layout="constrained")
    panels = figure.subplots(2, len(KINDS), sharey=True)
    for row, axis in enumerate(AXES):
        for column, (title, kinds) in enumerate(KINDS.items()):
            panel = panels[row][column]
            _draw_panel(panel, rows[rows["kind"].isin(kinds)], axis)
            panel.set_title(f"{title} heads" if row == 0 else "")
            panel.set_xlabel(AXES[axis])
        panels[row][0].set_ylabel("gap (0 optimum, 100 mean random partition)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    figure.suptitle(_title(rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _title(rows: pd.DataFrame) -> str:
    heads, groups = int(rows["heads"].iloc[0]), int(rows["groups"].iloc[0])
    return f"{heads} heads in {groups} groups, equal sizes and bounded ones: median and quartiles of the gap"


def _draw_panel(panel: Axes, rows: pd.DataFrame, axis: str) -> None:
    for name, (colour, line) in STYLES.items():
        chosen = rows[rows["method"] == name]
        points, gaps = _curves(chosen, axis)
        if not np.isfinite(gaps).any():
            continue
        low, middle, high = (_quantile(gaps, share) for share in (0.25, 0.5, 0.75))
        width = 2.4 if name == "evolution" else 1.6
        panel.plot(points, middle, line, color=colour, linewidth=width, label=name)
        panel.fill_between(points, low, high, color=colour, alpha=0.12, linewidth=0)
    for name, marker in POINTS.items():
        chosen = rows[rows["method"] == name]
        where = chosen["evaluations" if axis == "e" else "seconds"].median()
        panel.plot([where], [chosen["at_end"].median()], marker, color="black", markersize=6, label=name)
    panel.set_xscale("log")
    panel.set_yscale("symlog", linthresh=LINEAR, linscale=0.4)
    panel.set_ylim(-0.02, 110)
    panel.set_yticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"])
    panel.grid(alpha=0.25)


def _curves(rows: pd.DataFrame, axis: str) -> tuple[FloatArray, FloatArray]:
    """Where gaps were written down, (P,), and the gaps, (runs, P): the same runs at every point."""
    columns = [column for column in rows.columns if column.startswith(f"gap_{axis}")]
    points = np.array([float(column.removeprefix(f"gap_{axis}")) for column in columns])
    long = rows[rows["to_evaluations"].astype(bool)]
    gaps = (long if len(long) else rows)[columns].to_numpy(dtype=np.float64)
    known = ~np.isnan(gaps).any(axis=0)
    return points[known], gaps[:, known]


def _quantile(gaps: FloatArray, share: float) -> FloatArray:
    """Quantile of every column, (P,), NaN where it is infinite.

    Lower values, not interpolated: a partition that is not valid yet has an infinite gap.
    """
    values = np.sort(gaps, axis=0)[int(share * (len(gaps) - 1))]
    return np.where(np.isfinite(values), values, np.nan)
