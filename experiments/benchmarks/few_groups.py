"""A curve where each group's error has to be computed: how few are asked for, and how good it is.


python -m experiments.benchmarks.few_groups            # today's default against all neighbours: minutes
python -m experiments.benchmarks.few_groups --quick    # one seed each

A group's error is that of the optimal merge: the discarded eigenvalues of the Gram of its heads (``SharedSubspace``),
heads of 4 rows so that a full search takes a minute. ``full``: the same evolution with ``max_groups`` None, which
computes every neighbour a descent looks at. Excess is over its errors, in %, at every number of groups from 1 to 31;
``work`` is the sum of cubed sizes of the groups asked for, as an eigenvalue problem costs, full over screened.

``gaussian``: independent normal heads. ``clustered``: a centre per four heads plus Student-t noise of three degrees of
freedom. ``trained``: 32 of the 72 heads of the embedded model, values as its outputs read them plus keys as its queries
read them on calibration text, each in its strongest directions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import track

from experiments.benchmarks.search import show
from gqasearch.budget import Budget
from gqasearch.cli.messages import quiet_libraries
from gqasearch.config import build_config
from gqasearch.fitness import to_numpy
from gqasearch.merging.shared_subspace import SharedSubspace
from gqasearch.pairwise import FloatArray
from gqasearch.searching import Problem, SetErrors, make_method
from gqasearch.steps import Workspace

KINDS = ("trained", "clustered", "gaussian")
HEADS, ROWS, SEEDS = 32, 4, 3
METHODS: dict[str, dict[str, Any]] = {"full": {"max_groups": None}, "screened": {}}


class CountedMerge:
    """Errors of groups as ``SetErrors`` asks for them; counts them and the CPU seconds they take."""

    def __init__(self, parts: Sequence[FloatArray]) -> None:
        plain = torch.eye(ROWS, dtype=torch.float64).expand(HEADS, ROWS, ROWS)
        self.parts = [
            SharedSubspace(torch.from_numpy(rows), plain, torch.eye(rows.shape[-1], dtype=torch.float64))
            for rows in parts
        ]
        self.asked, self.work, self.seconds = 0, 0, 0.0

    def __call__(self, groups: Sequence[tuple[int, ...]]) -> list[float]:
        started = time.process_time()
        errors = np.zeros(len(groups))
        of_size: dict[int, list[int]] = {}
        for row, heads in enumerate(groups):
            of_size.setdefault(len(heads), []).append(row)
        for size, rows in of_size.items():
            same = np.array([groups[row] for row in rows])
            errors[rows] = sum(part.errors(same) for part in self.parts)
            self.work += len(rows) * size**3
        self.asked += len(groups)
        self.seconds += time.process_time() - started
        return [float(error) for error in errors]


def head_rows(kind: str, seed: int) -> list[FloatArray]:
    """What each part of the error is made of, (H, r, D) each."""
    rng = np.random.default_rng([KINDS.index(kind), HEADS, seed])
    width = HEADS * ROWS
    if kind == "gaussian":
        return [rng.normal(size=(HEADS, ROWS, width))]
    if kind == "clustered":
        centres = rng.normal(size=(HEADS // 4, ROWS, width))
        noise = rng.standard_t(3, size=(HEADS, ROWS, width))
        return [centres[rng.integers(len(centres), size=HEADS)] + 0.5 * noise]
    parts = trained_rows()
    chosen = rng.choice(len(parts[0]), size=HEADS, replace=False)
    return [part[chosen] / np.linalg.norm(part[chosen]) for part in parts]


@cache
def trained_rows() -> tuple[FloatArray, FloatArray]:
    """The strongest directions of W_o W_v C^(1/2) and C^(1/2) W_q^T W_k C^(1/2) of all heads, (72, r, D) each."""
    work = Workspace(build_config({}))
    layers = range(work.parent.geometry.num_layers)
    moment = sum((to_numpy(work.statistics.layer(index).second_moment) for index in layers), start=np.zeros(1))
    values, vectors = np.linalg.eigh(moment / len(layers))
    root = vectors * np.sqrt(np.maximum(values, 0))  # C = root root^T
    read_values, read_keys = list[FloatArray](), list[FloatArray]()
    for weights in map(work.parent.layer, layers):
        read_values.append(to_numpy(weights.o) @ (to_numpy(weights.v) @ root))
        read_keys.append((to_numpy(weights.q) @ root).swapaxes(1, 2) @ (to_numpy(weights.k) @ root))
    return _strongest(np.concatenate(read_values)), _strongest(np.concatenate(read_keys))


def _strongest(maps: FloatArray) -> FloatArray:
    _, sizes, rows = np.linalg.svd(maps, full_matrices=False)
    return np.asarray(sizes[:, :ROWS, None] * rows[:, :ROWS])


def measure(seeds: int, kinds: Sequence[str]) -> pd.DataFrame:
    """One row per kind, seed and method; CPU seconds of the whole search and of the search without the errors."""
    rows: list[dict[str, Any]] = []
    for kind in kinds:
        for seed in track(range(seeds), kind, console=Console(stderr=True)):
            curves = {}
            for name, parameters in METHODS.items():
                merge = CountedMerge(head_rows(kind, seed))
                started = time.process_time()
                curves[name] = trace(merge, parameters, seed)
                seconds = time.process_time() - started
                excess = 100 * (curves[name][:-1] / curves["full"][:-1] - 1)
                found = {"groups": merge.asked, "work": merge.work, "cpu": seconds, "own_cpu": seconds - merge.seconds}
                worst = {"max_excess": float(excess.max()), "mean_excess": float(excess.mean())}
                rows.append({"heads": kind, "seed": seed, "method": name, **found, **worst})
    return pd.DataFrame(rows)


def trace(merge: CountedMerge, parameters: dict[str, Any], seed: int) -> FloatArray:
    """Lowest error found for every number of groups, (H,)."""
    errors = SetErrors(HEADS, merge)
    whole = Problem({"error": errors.objective}, Budget((HEADS // 2,), HEADS), layer_errors=(errors,))
    method = make_method("evolution", parameters)
    *_, last = method.search(whole.layer_problem(0, free_counts=True), np.random.default_rng(seed))
    curve = np.full(HEADS, np.inf)
    for candidate in last.front:
        curve[candidate.grouping.kv_heads_total - 1] = candidate.values[0]
    return np.minimum.accumulate(curve)  # a number of groups that does not pay is no worse than one fewer


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per kind: full and screened side by side; the largest of all seeds, or their median."""
    table = []
    for kind, part in rows.groupby("heads", sort=False):
        full, screened = (part[part["method"] == name].reset_index() for name in METHODS)
        table.append(
            {
                "heads": kind,
                "seeds": len(full),
                "groups: full": int(full["groups"].max()),
                "screened, most": int(screened["groups"].max()),
                "work, times less": float((full["work"] / screened["work"]).median()),
                "CPU s: full": float(full["cpu"].median()),
                "screened": float(screened["cpu"].median()),
                "without errors: full": float(full["own_cpu"].median()),
                "screened ": float(screened["own_cpu"].median()),
                "excess %: max": float(screened["max_excess"].max()),
                "mean": float(screened["mean_excess"].mean()),
            }
        )
    return pd.DataFrame(table)


def main() -> None:
    """Measure and print, every run and the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], help="which heads (default: all)")
    parser.add_argument("--quick", action="store_true", help="one seed of each kind")
    arguments = parser.parse_args()
    quiet_libraries(0)
    torch.set_num_threads(1)
    rows = measure(1 if arguments.quick else SEEDS, arguments.kinds or KINDS)
    show("every run", rows)
    show("at most 10,000 groups", summary(rows))


if __name__ == "__main__":
    main()
