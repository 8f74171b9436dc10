"""The plot of the scale benchmark: memory against layers, memory and CPU against width, and where the seconds go."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.benchmarks.apart import DONE
from experiments.benchmarks.scale_jobs import BASELINE, THIS
from experiments.benchmarks.scale_models import SHAPES
from experiments.benchmarks.scale_tables import STAGE, medians

LINES = {THIS: "-", BASELINE: "--"}
COLOURS = dict(zip(SHAPES, ("#1f77b4", "#2ca02c", "#ff7f0e", "#d62728"), strict=True))
TREE_COLOURS = {THIS: "#d62728", BASELINE: "#7f7f7f"}


def draw_scale(rows: pd.DataFrame, path: Path) -> None:
    """Four panels, of the shapes with random weights and the flags and tokens that most rows have."""
    mpl.use("Agg")
    middle = medians(rows)
    middle = middle[middle["model"].isin(SHAPES) & (middle["outcome"] == DONE)]
    middle = middle[_commonest(middle, ["calibration_tokens", "flags", "dtype"])]
    figure = Figure(figsize=(12, 9), layout="constrained")
    (memory, layers), (passes, stages) = figure.subplots(2, 2)
    _draw_layers(layers, middle)
    few = middle[middle["layers"] == middle["layers"].min()]
    _draw_widths(memory, few, few["peak"] / 1e9, "memory: peak of resident bytes, GB")
    _draw_widths(passes, few, few["passes"], "time: CPU seconds over those of a forward pass")
    _draw_stages(stages, few)
    if len(middle):
        first, threads = middle.iloc[0], " or ".join(map(str, sorted(set(middle["threads"]))))
        words = f"{first['calibration_tokens']:,} calibration tokens, {first['dtype']}, {threads} thread(s)"
        figure.suptitle(f"One run of gqasearch search, {words}: this tree and the baseline commit")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _commonest(rows: pd.DataFrame, names: list[str]) -> pd.Series[bool]:
    """Which rows have the values of these columns that most rows have."""
    chosen = pd.Series(data=True, index=rows.index)
    if len(rows):
        cases = Counter(rows[names].itertuples(index=False, name=None))
        for name, value in zip(names, cases.most_common(1)[0][0], strict=True):
            chosen &= rows[name] == value
    return chosen


def _draw_layers(panel: Axes, rows: pd.DataFrame) -> None:
    """Peak against layers: a line per shape and tree."""
    for (model, what), group in rows.groupby(["model", "what"], sort=False):
        ordered = group.sort_values("layers")
        if len(ordered) < 2:
            continue
        colour, line = COLOURS[str(model)], LINES[str(what)]
        panel.plot(ordered["layers"], ordered["peak"] / 1e9, line, marker="o", color=colour, label=f"{model}, {what}")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(panel, "decoder layers", "peak of resident memory, GB", "Memory against layers")


def _draw_widths(panel: Axes, rows: pd.DataFrame, values: pd.Series[float], words: str) -> None:
    """A figure against the width of models of equal depth: a line per tree."""
    for what, line in LINES.items():
        mine = rows[rows["what"] == what]
        widths = [SHAPES[model].width for model in mine["model"]]
        order = np.argsort(widths)
        panel.plot(
            np.array(widths)[order],
            values.loc[mine.index].to_numpy(float)[order],
            color=TREE_COLOURS[what],
            linestyle=line,
            marker="o",
            label=what,
        )
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter("{x:.0f}")
    depth = f" of {int(rows['layers'].iloc[0])} layers" if len(rows) else ""
    _finish(panel, f"hidden size (models{depth})", words, f"{words.split()[0].capitalize()} against width")


def _draw_stages(panel: Axes, rows: pd.DataFrame) -> None:
    """Seconds of the stages of the widest model, a bar per tree."""
    if rows.empty:
        return
    widest = max(rows["model"], key=lambda name: SHAPES[name].width)
    mine = rows[rows["model"] == widest]
    names = [name for name in rows.columns if name.startswith(STAGE)]
    places, shift = np.arange(len(names)), 0.2
    for what, sign in ((THIS, -1), (BASELINE, 1)):
        chosen = mine[mine["what"] == what]
        if len(chosen):
            values = chosen[names].iloc[0].fillna(0.0).to_numpy(float)
            panel.barh(places + sign * shift, values, 2 * shift, color=TREE_COLOURS[what], label=what)
    panel.set_yticks(places, [name.removeprefix(STAGE) for name in names])
    panel.invert_yaxis()
    _finish(panel, "wall-clock seconds", "", f"Stages of {widest}, {int(mine['layers'].iloc[0])} layers")


def _finish(panel: Axes, x: str, y: str, title: str) -> None:
    panel.set(xlabel=x, ylabel=y, title=title)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=False, fontsize=8)
    panel.grid(alpha=0.25)
    panel.margins(y=0.08)
    if not panel.yaxis_inverted():
        panel.set_ylim(bottom=0)
