"""The plot of the scale benchmark: memory and CPU of every case, this tree beside the baseline, and where it goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.benchmarks.apart import DONE
from experiments.benchmarks.scale_jobs import BASELINE, THIS
from experiments.benchmarks.scale_tables import CASE, medians

CPU = "cpu: "
TREE_COLOURS = {THIS: "#0072B2", BASELINE: "#999999"}
STAGE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BAR = 0.38


def draw_scale(rows: pd.DataFrame, path: Path) -> None:
    """Three panels, a line per case that ended: peak of memory, CPU seconds, and this tree's seconds by stage."""
    mpl.use("Agg")
    middle = medians(rows)
    middle = middle[middle["outcome"] == DONE]
    names = list(dict.fromkeys(map(_words, middle[CASE].to_dict("records"))))
    figure = Figure(figsize=(15, 1.6 + 0.62 * len(names)), layout="constrained")
    memory, seconds, stages = figure.subplots(1, 3, sharey=True)
    _draw_trees(memory, middle, names, middle["peak"] / 1e9, "peak of resident memory, GB")
    _draw_trees(seconds, middle, names, middle["cpu"], "CPU seconds of the whole run")
    seconds.set_xscale("log")
    _draw_stages(stages, middle[middle["what"] == THIS], names)
    memory.set_yticks(range(len(names)), names)
    memory.invert_yaxis()
    figure.suptitle("One run of gqasearch search: medians of its repeats, on a machine that others used")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _words(case: Mapping[Any, Any]) -> str:
    """A case as people read it."""
    flags = f"\n{case['flags']}" if case["flags"] else ""
    threads = f", {case['threads']} threads" if case["threads"] != 1 else ""
    return f"{case['model']}, {case['layers']} layers, {case['calibration_tokens']:,} tokens{threads}{flags}"


def _draw_trees(panel: Axes, rows: pd.DataFrame, names: list[str], values: pd.Series[float], words: str) -> None:
    """A bar per case and tree, its value beside it."""
    for what, shift in ((THIS, -BAR / 2), (BASELINE, BAR / 2)):
        mine = rows[rows["what"] == what]
        if mine.empty:
            continue
        places = [names.index(_words(case)) + shift for case in mine[CASE].to_dict("records")]
        bars = panel.barh(places, values.loc[mine.index], BAR, color=TREE_COLOURS[what], label=what)
        panel.bar_label(bars, fmt="{:,.3g}" if values.max() < 100 else "{:,.0f}", padding=3, fontsize=8)
    panel.margins(x=0.15)
    panel.set_xlabel(words)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=False, fontsize=8, loc="lower right")


def _draw_stages(panel: Axes, rows: pd.DataFrame, names: list[str]) -> None:
    """Shares of the CPU seconds by stage, one bar per case."""
    stages = [name for name in rows.columns if name.startswith(CPU) and rows[name].notna().any()]
    places = [names.index(_words(case)) for case in rows[CASE].to_dict("records")]
    total = rows[stages].sum(axis=1).replace(0, np.nan)
    left = np.zeros(len(rows))
    for name, colour in zip(stages, STAGE_COLOURS, strict=False):
        share = (100 * rows[name] / total).fillna(0.0).to_numpy(float)
        panel.barh(places, share, 2 * BAR, left=left, color=colour, label=name.removeprefix(CPU))
        left += share
    panel.set_xlabel("this tree's CPU seconds by stage, %")
    if panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
