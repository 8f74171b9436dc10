"""The error of one layer for every number of groups: one evolution against NSGA-II, and the proven curve.

NSGA-II is QCQA's first stage (gqasearch.searching.papers): labels as genomes, population 100, 400 generations, so
40,000 evaluations, DEAP's ``selNSGA2`` with ``nd="log"``, the error of a whole population in one call.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from experiments.benchmarks.instances import KINDS, Instance
from gqasearch.budget import Budget
from gqasearch.pairwise import FloatArray, IntArray
from gqasearch.searching import PairwiseErrors, Problem, make_method
from gqasearch.searching.exact import solve_pairwise
from gqasearch.searching.papers.nsga2_genomes import LabelGenomes
from gqasearch.searching.papers.nsga2_integers import NSGA2, Rates

HEADS, SEEDS = 32, 10
EVALUATIONS, POPULATION = 40_000, 100
TIME_LIMIT = 120.0  # seconds for one proof


def measure(quick: bool) -> pd.DataFrame:
    """One row per kind, seed and method; gaps in % of the proven error, ``cpu`` in seconds."""
    rows: list[dict[str, Any]] = []
    for kind in KINDS[:1] if quick else KINDS:
        table = Instance(kind, HEADS, HEADS // 2, False, 0).distances()
        lower, proven = proven_curve(table)
        seeds = range(2 if quick else SEEDS)
        for seed in track(seeds, kind, console=Console(stderr=True)):
            for name, trace in (("evolution", evolution_curve), ("NSGA-II", nsga2_curve)):
                started = time.process_time()
                curve = trace(table, np.random.default_rng(seed))
                seconds = time.process_time() - started
                gaps = 100 * (curve[1:-1] / lower[1:-1] - 1)
                rows.append(
                    {
                        "heads": kind,
                        "seed": seed,
                        "method": name,
                        "cpu": seconds,
                        "worst_gap": float(np.nanmax(gaps)),
                        "median_gap": float(np.nanmedian(gaps)),
                        "missing": int(np.isnan(gaps).sum()),
                        "proven": proven,
                    }
                )
    return pd.DataFrame(rows)


def proven_curve(table: FloatArray) -> tuple[FloatArray, int]:
    """Lower bounds, (H,), on the error for every number of groups; how many of them are the optimum."""
    proofs = [
        solve_pairwise(table, groups, time_limit=TIME_LIMIT, rng=np.random.default_rng(0))
        for groups in range(1, HEADS + 1)
    ]
    return np.array([proof.lower_bound for proof in proofs]), sum(proof.proven for proof in proofs)


def evolution_curve(table: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Lowest error found for every number of groups, (H,), nan for none: the default evolution, once."""
    errors = PairwiseErrors(table)
    whole = Problem({"error": errors.objective}, Budget((HEADS // 2,), HEADS), layer_errors=(errors,))
    *_, last = make_method("evolution").search(whole.layer_problem(0, free_counts=True), rng)
    curve = np.full(HEADS, np.nan)
    for candidate in last.front:
        curve[candidate.grouping.kv_heads_total - 1] = candidate.values[0]
    return curve


def nsga2_curve(table: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The same by 40,000 evaluations of NSGA-II; the best of every number of groups that it met."""
    errors = PairwiseErrors(table)
    curve = np.full(HEADS, np.nan)

    def evaluate(labels: IntArray) -> FloatArray:
        counts = np.array([len(np.unique(row)) for row in labels])
        values = errors.evaluate(labels)
        np.fmin.at(curve, counts - 1, values)
        return np.stack([counts / HEADS, values], axis=1)

    run = NSGA2(LabelGenomes(Budget((HEADS // 2,), HEADS)), evaluate, Rates(POPULATION, 0.9, 1 / HEADS), rng)
    run.start()
    for _ in range(EVALUATIONS // POPULATION - 1):
        run.advance()
    return curve


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per kind and method."""
    return pd.DataFrame(
        {
            "heads": kind,
            "method": method,
            "runs": len(part),
            "CPU s": float(part["cpu"].median()),
            "worst gap %, median of runs": float(part["worst_gap"].median()),
            "of the worst run": float(part["worst_gap"].max()),
            "median gap %": float(part["median_gap"].median()),
            "never met": int(part["missing"].max()),
            f"proven of {HEADS}": int(part["proven"].iloc[0]),
        }
        for (kind, method), part in rows.groupby(["heads", "method"], sort=False)
    )
