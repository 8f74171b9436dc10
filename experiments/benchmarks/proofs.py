"""Proofs at Llama-2-7B's shape: 32 layers of 32 heads, every layer's best grouping with its certificate.

The issue's question: is every layer proven optimal within 3 minutes in all, on 2 cores, for 4, 8 and 16 groups of
equal (EC) and of bounded (AC, at most twice the mean) size?
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from experiments.benchmarks.instances import KINDS, Instance, distances
from gqasearch.searching.exact import solve_pairwise

LAYERS, HEADS, GROUPS = 32, 32, (4, 8, 16)
PROCESSES = 2
TIME_LIMIT = 30.0  # seconds for one proof


def measure(quick: bool) -> pd.DataFrame:
    """One row per kind, layer, number of groups and cardinality; ``wall``: seconds for the whole kind."""
    layers = 2 if quick else LAYERS
    frames = []
    # One thread each: the processes share the cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        list(pool.map(abs, range(PROCESSES)))  # started before the clock is
        for kind in KINDS:
            tables = [distances(kind, HEADS, layer) for layer in range(layers)]
            started = time.perf_counter()
            jobs = pool.map(prove_layer, [kind] * layers, range(layers), tables)
            rows = [row for found in track(jobs, kind, layers, console=Console(stderr=True)) for row in found]
            frames.append(pd.DataFrame(rows).assign(wall=time.perf_counter() - started))
    return pd.concat(frames, ignore_index=True)


def prove_layer(kind: str, layer: int, table: np.ndarray[Any, np.dtype[np.float64]]) -> list[dict[str, Any]]:
    """All problems of one layer."""
    rows = []
    for groups in GROUPS:
        for equal_sizes in (True, False):
            budget = Instance(kind, HEADS, groups, equal_sizes, layer).budget
            proof = solve_pairwise(
                table,
                groups,
                budget.smallest_group,
                budget.largest,
                time_limit=TIME_LIMIT,
                rng=np.random.default_rng(0),
            )
            rows.append(
                {
                    "heads": kind,
                    "layer": layer,
                    "groups": groups,
                    "sizes": "EC" if equal_sizes else "AC",
                    "value": proof.value,
                    "lower_bound": proof.lower_bound,
                    "proven": proof.proven,
                    "gap": proof.gap,
                    "seconds": proof.seconds,
                }
            )
    return rows


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per kind."""
    return pd.DataFrame(
        {
            "heads": kind,
            "problems": len(part),
            "proven": int(part["proven"].sum()),
            "worst gap, %": 100 * float(part["gap"].max()),
            "median, s": float(part["seconds"].median()),
            "slowest, s": float(part["seconds"].max()),
            f"all, {PROCESSES} processes, s": float(part["wall"].iloc[0]),
        }
        for kind, part in rows.groupby("heads", sort=False)
    )
