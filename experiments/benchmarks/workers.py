"""Perplexity of 200 groupings through Ray and through plain processes: the same bits as one process, and the time.

python -m experiments.benchmarks.workers            # 200 evaluations four times over (minutes)
python -m experiments.benchmarks.workers --quick    # a few, written nowhere
python -m experiments.benchmarks.workers --show     # the committed results

Two workers of one thread each, of either kind, are up at the same time and take the same candidates in turn, so that
a ratio holds while the machine's speed drifts; every round has new candidates, as workers keep what they computed.
Then Ray has all of them again with a worker that is killed by SIGKILL half-way. Starting workers is not in the times.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from experiments.benchmarks.faults import KilledHalfway
from experiments.benchmarks.search import show
from gqasearch.budget import Budget
from gqasearch.cli.messages import quiet_libraries
from gqasearch.config import build_config
from gqasearch.files import write_file
from gqasearch.fitness import PreparedFitness
from gqasearch.grouping import Grouping
from gqasearch.pairwise import FloatArray
from gqasearch.parallel import Blueprint, Workers, spread_fitness, start_workers
from gqasearch.run.run_folder import environment
from gqasearch.searching.operators import random_partition
from gqasearch.steps import Workspace
from gqasearch.steps.workers import blueprint_of
from gqasearch_fitness.perplexity import Perplexity

RESULTS = Path(__file__).parent / "results" / "workers"
EVALUATIONS, ROUNDS, WORKERS = 200, 8, 2
PLAIN, RAY = Workers(WORKERS), Workers(WORKERS, "local")


def measure(quick: bool) -> pd.DataFrame:
    """One row per round; ``equal``: values with the bits of one process; ``killed``: of Ray, a worker killed."""
    count, rounds = (8, 1) if quick else (EVALUATIONS, ROUNDS)
    candidates = groupings(count)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        plan = blueprint(256 if quick else 2048, Path(name) / "met", count // 2)
        one = plan.prepare()["perplexity"]
        plain, ray = (stack.enter_context(start_workers(kind, plan)) for kind in (PLAIN, RAY))
        plain.settle()
        ray.settle()
        first, second = spread_fitness(plain), spread_fitness(ray)
        measured = []
        for index, part in enumerate(np.array_split(np.arange(count), rounds)):
            these = [candidates[place] for place in part]
            measured.append(_round(index, these, one, first["perplexity"], second["perplexity"]))
        again = second["killed-halfway"].evaluate(candidates)
        if not (Path(name) / "killed").exists() or ray.failures:
            raise RuntimeError("no worker was killed, or a candidate failed")
        equal = np.array_split(again == one.evaluate(candidates), rounds)
        return pd.DataFrame(measured).assign(**{"equal, killed": [int(part.sum()) for part in equal]})


def blueprint(tokens: int, folder: Path, at: int) -> Blueprint:
    """Perplexity of the embedded model after the mean merge, and the same with a worker killed."""
    folder.mkdir()
    work = Workspace(build_config({"objectives": ["perplexity"], "merge": "mean", "search_tokens": tokens}))
    plan = blueprint_of(work, 1)
    perplexity = Perplexity(tokens=tokens)
    killed = KilledHalfway(tokens=tokens, folder=str(folder), at=at)
    return replace(plan, fitnesses={"perplexity": perplexity, "killed-halfway": killed})


def groupings(count: int) -> list[Grouping]:
    """Different ones of half the heads."""
    rng, budget = np.random.default_rng(0), Budget((6,) * 6, 12)
    found: dict[Grouping, None] = {}
    while len(found) < count:
        found[Grouping(tuple(random_partition(6, budget, rng) for _ in range(6)))] = None
    return list(found)


def _round(
    index: int, these: list[Grouping], one: PreparedFitness, plain: PreparedFitness, ray: PreparedFitness
) -> dict[str, float]:
    """Who is first alternates."""
    order = [("plain", plain), ("Ray", ray)][:: 1 if index % 2 == 0 else -1]
    timed = {name: _timed(prepared, these) for name, prepared in order}
    alone, alone_seconds = _timed(one, these)
    return {
        "round": index,
        "evaluations": len(these),
        "one, s": alone_seconds,
        "plain, s": timed["plain"][1],
        "Ray, s": timed["Ray"][1],
        "Ray / plain": timed["Ray"][1] / timed["plain"][1],
        "equal, plain": int((timed["plain"][0] == alone).sum()),
        "equal, Ray": int((timed["Ray"][0] == alone).sum()),
    }


def _timed(prepared: PreparedFitness, candidates: list[Grouping]) -> tuple[FloatArray, float]:
    started = time.perf_counter()
    return prepared.evaluate(candidates), time.perf_counter() - started


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """All rounds together; the ratio is the median of the rounds'."""
    ratios = rows["Ray / plain"]
    total = rows.drop(columns=["round", "Ray / plain"]).sum().to_frame().T
    total["Ray / plain"] = ratios.median()
    total["lowest"], total["highest"] = ratios.min(), ratios.max()
    return total


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small version, to try it; writes nothing")
    parser.add_argument("--show", action="store_true", help="print the committed results instead of measuring")
    arguments = parser.parse_args()
    quiet_libraries(0)
    torch.set_num_threads(1)
    rows = pd.read_csv(RESULTS / "workers.csv") if arguments.show else measure(arguments.quick)
    show("workers", summary(rows))
    if not (arguments.quick or arguments.show):
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_file(RESULTS / "workers.csv", rows.to_csv(index=False, float_format="%.6g"), overwrite=True)
        write_file(RESULTS / "environment.json", json.dumps(environment(), indent=1) + "\n", overwrite=True)


if __name__ == "__main__":
    main()
