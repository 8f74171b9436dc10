"""A KV budget over layers: the exact split of every budget at once, and NSGA-II as QCQA's second stage runs it.

Both get the same table, the lowest error of every layer for every number of groups. NSGA-II (population 200, 300
generations, DEAP's ``selNSGA2`` with ``nd="log"``) chooses a number of groups per layer, by (groups in all, summed
error). Every reported gap is against the exact front at NSGA-II's own totals.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
from deap.benchmarks.tools import hypervolume  # type: ignore[import-untyped]
from rich.console import Console
from rich.progress import track

from experiments.benchmarks.curves import evolution_curve
from experiments.benchmarks.instances import Instance
from gqasearch.pairwise import FloatArray, IntArray
from gqasearch.searching.allocation import split_budget
from gqasearch.searching.papers.nsga2_genomes import ChoiceGenomes
from gqasearch.searching.papers.nsga2_integers import NSGA2, Rates
from gqasearch.searching.record import MinimisingFitness

HEADS, SHAPES, SEEDS = 32, (32, 80), 5
POPULATION, GENERATIONS = 200, 300


class _Point:
    """As DEAP's hypervolume sees it."""

    def __init__(self, values: tuple[float, float]) -> None:
        self.fitness = MinimisingFitness(values)


def measure(quick: bool) -> pd.DataFrame:
    """One row per number of layers and seed."""
    rows: list[dict[str, Any]] = []
    distinct = [
        evolution_curve(Instance("weights", HEADS, HEADS // 2, False, seed).distances(), np.random.default_rng(seed))
        for seed in range(2 if quick else 32)
    ]
    rng = np.random.default_rng(0)
    for layers in SHAPES:
        # Layers differ in scale, as layers of models do; beyond 32 the curves come again with other scales.
        curves = np.stack([distinct[i % len(distinct)] * rng.uniform(0.5, 2) for i in range(layers)])
        for seed in track(range(1 if quick else SEEDS), f"{layers} layers", console=Console(stderr=True)):
            started = time.process_time()
            split = split_budget(curves)
            exact = time.process_time() - started
            started = time.process_time()
            found = evolve(curves, 3 if quick else GENERATIONS, np.random.default_rng(seed))
            evolved = time.process_time() - started
            totals, errors = found[:, 0].astype(int), found[:, 1]
            gaps = 100 * (errors / split.errors[totals] - 1)
            rows.append(
                {
                    "layers": layers,
                    "seed": seed,
                    "exact_cpu": exact,
                    "nsga2_cpu": evolved,
                    "totals_exact": int(np.isfinite(split.errors).sum()),
                    "totals_nsga2": len(found),
                    "median_gap": float(np.median(gaps)),
                    "worst_gap": float(gaps.max()),
                    "hypervolume_ratio": volume(found, curves) / volume(exact_front(split.errors), curves),
                }
            )
    return pd.DataFrame(rows)


def evolve(curves: FloatArray, generations: int, rng: np.random.Generator) -> FloatArray:
    """The non-dominated (total, error) that NSGA-II ends with, (n, 2)."""
    layers, heads = curves.shape

    def evaluate(choices: IntArray) -> FloatArray:
        return np.stack([choices.sum(1) + layers, curves[np.arange(layers), choices].sum(1)], axis=1)

    run = NSGA2(ChoiceGenomes([heads] * layers), evaluate, Rates(POPULATION, 0.9, 1 / layers), rng)
    run.start()
    for _ in range(generations):
        run.advance()
    order = np.lexsort(run.values.T[::-1])
    ranked = run.values[order]
    lowest = np.minimum.accumulate(np.concatenate([[np.inf], ranked[:-1, 1]]))
    return np.asarray(ranked[ranked[:, 1] < lowest])


def exact_front(errors: FloatArray) -> FloatArray:
    """(total, error) of every total that has one, (n, 2)."""
    totals = np.flatnonzero(np.isfinite(errors))
    return np.stack([totals, errors[totals]], axis=1)


def volume(front: FloatArray, curves: FloatArray) -> float:
    """Dominated area, in units of all groups x the error with one group per layer."""
    scale = np.array([curves.size, curves[:, 0].sum()])
    points = [_Point((float(total), float(error))) for total, error in front / scale]
    return float(hypervolume(points, np.array([1.0, 1.0])))


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per number of layers."""
    return pd.DataFrame(
        {
            "layers": layers,
            "exact, CPU s": float(part["exact_cpu"].median()),
            "NSGA-II, CPU s": float(part["nsga2_cpu"].median()),
            "times faster": float((part["nsga2_cpu"] / part["exact_cpu"]).median()),
            "totals: exact": int(part["totals_exact"].iloc[0]),
            "NSGA-II": int(part["totals_nsga2"].median()),
            "NSGA-II's gap %, median": float(part["median_gap"].median()),
            "worst": float(part["worst_gap"].max()),
            "hypervolume ratio": float(part["hypervolume_ratio"].median()),
        }
        for layers, part in rows.groupby("layers", sort=False)
    )
