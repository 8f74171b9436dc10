"""From the rows of the scale benchmark to its tables: medians, shares of a forward pass, slopes over layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from experiments.benchmarks.apart import DONE
from experiments.benchmarks.scale_jobs import BASELINE, FORWARD, THIS
from experiments.benchmarks.scale_models import SHAPES

# Cases of one model that differ in their number of layers alone.
SERIES = ["model", "calibration_tokens", "evaluation_tokens", "dtype", "flags", "threads"]
CASE = [*SERIES, "layers"]
STAGE = "seconds: "
NOT_NOTED = f"{STAGE}not noted"

WORDS = {THIS: "this", BASELINE: "base"}


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """A line per case and tree: medians over the repeats that ended, else the last outcome with no figures but peak.

    ``passes``: CPU seconds over those of the plain forward pass of the calibration text. What a run does not count
    among its stages is one more: starting Python, and all but the search in commits before that noted them.
    """
    forward = _forward(rows)
    lines = []
    for key, group in rows[rows["what"] != FORWARD].groupby([*CASE, "what"], sort=False):
        done = group[group["outcome"] == DONE]
        line: dict[Any, Any] = dict(zip([*CASE, "what"], key, strict=True))
        taken = done if len(done) else group
        middle = taken.select_dtypes("number").drop(columns=[*_numbers(CASE, taken), "repeat"]).median()
        line |= {"outcome": str(taken["outcome"].iloc[-1]), "commit": taken["commit"].iloc[-1], "runs": len(taken)}
        line |= dict(middle)
        line["passes"] = line["cpu"] / forward.get(_pass_key(line), np.nan)
        line[NOT_NOTED] = line["wall"] - np.nansum([line[name] for name in line if name.startswith(STAGE)])
        lines.append(line)
    return pd.DataFrame(lines)


def _numbers(names: list[str], frame: pd.DataFrame) -> list[str]:
    return [name for name in names if frame[name].dtype.kind in "if"]


def _pass_key(line: dict[Any, Any]) -> tuple[object, ...]:
    return tuple(line[name] for name in ("model", "layers", "calibration_tokens", "dtype", "threads"))


def _forward(rows: pd.DataFrame) -> dict[tuple[object, ...], float]:
    """CPU seconds of the plain pass by ``_pass_key``, medians."""
    done = rows[(rows["what"] == FORWARD) & (rows["outcome"] == DONE)]
    found: dict[tuple[object, ...], list[float]] = {}
    for line in done.to_dict("records"):
        found.setdefault(_pass_key(line), []).append(line["cpu"])
    return {key: float(np.median(values)) for key, values in found.items()}


def main_table(rows: pd.DataFrame) -> pd.DataFrame:
    """What is printed of every case."""
    middle = medians(rows)
    return pd.DataFrame(
        {
            "model": middle["model"],
            "layers": middle["layers"],
            "tokens": middle["calibration_tokens"],
            "flags": middle["flags"],
            "tree": _tree_words(middle),
            "runs": middle["runs"],
            "wall, s": middle["wall"].round(1),
            "CPU, s": middle["cpu"].round(1),
            "forward passes": middle["passes"],
            "peak, GB": middle["peak"] / 1e9,
            "KL": middle.get("kl", np.nan),
            "outcome": middle["outcome"],
        }
    )


def _tree_words(middle: pd.DataFrame) -> pd.Series[str]:
    return middle["what"].map(WORDS) + " " + middle["commit"]


def stage_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Wall-clock seconds of every stage, medians."""
    middle = medians(rows)
    stages = [name for name in middle.columns if name.startswith(STAGE)]
    table = middle[["model", "layers", *stages]].rename(columns=lambda name: name.removeprefix(STAGE))
    table.insert(2, "tree", _tree_words(middle))
    return table.round(1)


def plan_table(rows: pd.DataFrame) -> pd.DataFrame:
    """What runs of this tree expected of every stage, and what it took: seconds and GB, medians."""
    lines = []
    for line in medians(rows).to_dict("records"):
        for stage in (str(name).removeprefix(STAGE) for name in line if str(name).startswith(STAGE)):
            planned = line.get(f"planned seconds: {stage}", np.nan)
            if line["what"] == THIS and not np.isnan(planned):
                peak, measured = (line.get(f"{words}: {stage}", np.nan) for words in ("planned peak", "peak"))
                taken = line[f"{STAGE}{stage}"]
                lines.append(
                    {
                        "model": line["model"],
                        "layers": line["layers"],
                        "flags": line["flags"],
                        "stage": stage,
                        "planned, s": planned,
                        "took, s": taken,
                        "ratio": planned / taken,
                        "CPU, s": line.get(f"cpu: {stage}", np.nan),
                        "planned, GB": peak / 1e9,
                        "had, GB": measured / 1e9,
                    }
                )
    return pd.DataFrame(lines)


def slope_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Of every series of runs of two or more numbers of layers: growth per layer, and what the whole model would take.

    Lines by least squares through the medians of the runs that ended.
    """
    middle = medians(rows)
    lines = []
    for key, group in middle[middle["outcome"] == DONE].groupby([*SERIES, "what"], sort=False):
        name = str(key[0])
        if len(group) < 2 or name not in SHAPES:
            continue
        whole, layers = SHAPES[name].layers, group["layers"].to_numpy(float)
        fits = {what: np.polyfit(layers, group[what].to_numpy(float), 1) for what in ("peak", "cpu")}
        passes = group["cpu"] / group["passes"]
        at_whole = {what: float(np.polyval(fit, whole)) for what, fit in fits.items()}
        forward = float(np.polyval(np.polyfit(layers, passes.to_numpy(float), 1), whole))
        lines.append(
            {
                "model": name,
                "tree": f"{WORDS[str(key[-1])]} {group['commit'].iloc[-1]}",
                "from layers": " ".join(map(str, sorted(group["layers"]))),
                "GB per layer": fits["peak"][0] / 1e9,
                "CPU s per layer": fits["cpu"][0],
                "whole model": whole,
                "its GB": at_whole["peak"] / 1e9,
                "its CPU hours": at_whole["cpu"] / 3600,
                "its forward passes": at_whole["cpu"] / forward,
            }
        )
    return pd.DataFrame(lines)


def side_by_side(rows: pd.DataFrame) -> pd.DataFrame:
    """Cases that both trees ended: this tree's figures over the baseline's."""
    middle = medians(rows)
    figures = [name for name in ("cpu", "wall", "peak", "kl") if name in middle]
    done = middle[middle["outcome"] == DONE]
    this, base = (done[done["what"] == what].set_index(CASE)[figures] for what in (THIS, BASELINE))
    ratios = (this / base).dropna(how="all").reset_index()
    return ratios.drop(columns=["evaluation_tokens", "dtype", "threads"])
