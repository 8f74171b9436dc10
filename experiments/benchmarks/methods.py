"""Every search method on pairwise problems: gaps to the optimum at equal evaluations and at equal CPU time.

One matrix of every kind for H = 16, 32 and 64 heads, G = H/4 groups, EC and AC (groups of at most twice the mean size).
Ten seeds of every method that draws at random, five at H = 64. References: ``solve_pairwise``, started from
the best of three evolutions; where it proves nothing, the lowest error that any run met.

A run is cut when it has passed E evaluations and T CPU seconds, or at the optimum; evolution goes on to its own end.
Methods that need a minute for E evaluations are cut at T instead, but for DEAP, pymoo and QCQA at H = 32, where seed s
runs to E on problem s modulo 8: ten runs in all. Time is CPU time of the search alone, one thread, two processes side
by side.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from experiments.benchmarks.instances import KINDS, Instance
from experiments.benchmarks.methods_plot import draw_methods
from experiments.benchmarks.pymoo_rival import is_installed
from experiments.benchmarks.rivals import EVALUATIONS, RIVALS
from experiments.benchmarks.trajectories import Limits, Trajectory, follow, is_reached
from gqasearch.cli.messages import quiet_libraries
from gqasearch.searching import PairwiseErrors, make_method
from gqasearch.searching.baselines.chains import random_labels
from gqasearch.searching.exact import solve_pairwise
from gqasearch.searching.runner import run_search


@dataclass(frozen=True)
class Effort:
    """T in seconds, and the seeds of a method that draws at random."""

    seconds: float
    seeds: int


PROCESSES = 2
# By H.
BUDGETS = {32: Effort(0.25, 10), 16: Effort(0.05, 10), 64: Effort(0.5, 5)}
QUICK_BUDGETS = {16: Effort(0.05, 2)}
# Slow rivals that run to E on a subset, the number of heads of that subset, and the most CPU seconds of a run there.
LONG, LONG_HEADS, LONG_SECONDS = ("deap-stock", "pymoo NSGA-II", "qcqa-ac, stage 1", "qcqa-ec, stage 1"), 32, 120.0
ENDLESS = float("inf")
# Random partitions whose mean error is 100 of the normalised gap; evolutions before a proof and its wall seconds.
RANDOM_PARTITIONS, EVOLUTIONS, PROOF_SECONDS = 500, 3, 60.0
# Where the trajectories of H = 32 are written down, for the plot.
CURVE_HEADS = 32
CURVE_EVALUATIONS = (30, 100, 300, 1_000, 3_000, 10_000, 30_000, 60_000, 100_000, 150_000, 200_000, 250_000)
CURVE_SECONDS = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.25, 1.0, 3.0, 10.0, 30.0)

T = TypeVar("T")
# Problem, name of the rival, seed, limits.
Task: TypeAlias = tuple[Instance, str, int, Limits]


@dataclass(frozen=True)
class Reference:
    """What gaps are measured from: the optimum, or the lowest error known, and the mean random partition."""

    value: float
    lower_bound: float
    proven: bool
    random_mean: float


def measure(quick: bool) -> pd.DataFrame:
    """One row per run: the rival, the problem, the seed, gaps at E, at T and in the end, time to the optimum."""
    budgets, kinds = (QUICK_BUDGETS, ("gaussian", "weights")) if quick else (BUDGETS, KINDS)
    problems = [Instance(kind, heads, heads // 4, ec, 0) for heads in budgets for ec in (True, False) for kind in kinds]
    tasks = [task for position, instance in enumerate(problems) for task in _tasks(instance, position, budgets)]
    # The longest first, so that no process waits for the other at the end.
    tasks.sort(key=lambda task: -task[3].most_seconds if task[1] in LONG else 0.0)
    with _pool() as pool, _progress() as progress:
        bar = progress.add_task("references", total=len(problems))
        found = {pool.submit(_reference, instance): instance for instance in problems}
        references = {found[future]: future.result() for future in _watched(found, progress, bar)}
        bar = progress.add_task("runs", total=len(tasks))
        runs = {pool.submit(_run, task, references[task[0]]): task for task in tasks}
        done = [(runs[future], future.result()) for future in _watched(runs, progress, bar)]
    for instance, reference in references.items():
        references[instance] = _lowered(reference, [trajectory for task, trajectory in done if task[0] == instance])
    rows = [_row(task, trajectory, references[task[0]], budgets[task[0].heads]) for task, trajectory in done]
    missing = [] if is_installed() else [{"method": "pymoo NSGA-II", "heads": heads} for heads in budgets]
    return pd.DataFrame(rows + missing).sort_values(["heads", "kind", "sizes", "method", "seed"], ignore_index=True)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """A line per rival, in blocks: 32 heads, trained and clustered (t+c) and gaussian (g), then 16 and 64 heads, all.

    "E", "T": normalised gap (0 the optimum, 100 the mean random partition) after E evaluations and T seconds, the
    median and, in brackets, the worst, then the runs at the optimum; "end": those when the runs had ended or were cut.
    "opt s": median CPU seconds to the optimum of the runs that met it. "per ms": evaluations a millisecond.
    """
    blocks = {
        "32 t+c": rows[(rows["heads"] == 32) & (rows["kind"] != "gaussian")],
        "32 g": rows[(rows["heads"] == 32) & ~rows["kind"].isin(("weights", "activations", "clustered"))],
        "16": rows[rows["heads"] == 16],
        "64": rows[rows["heads"] == 64],
    }
    names = [rival.name for rival in RIVALS]
    lines = [
        {"H": block, "method": name, **_line(chosen)}
        for block, within in blocks.items()
        for name in names
        if len(chosen := within[within["method"] == name])
    ]
    return pd.DataFrame(lines).fillna("")


def draw(rows: pd.DataFrame, path: Path) -> None:
    """The plot of H = 32: normalised gap against evaluations and against CPU seconds, by kind."""
    draw_methods(rows[rows["heads"] == CURVE_HEADS], path)


def _line(rows: pd.DataFrame) -> dict[str, str]:
    """Numbers of one rival in one block, as printed."""
    if rows["at_seconds"].isna().all():
        return {"E": "not installed"}
    # Of runs to be cut at T, those that got to E are the lucky ones.
    to_evaluations = rows[rows["to_evaluations"].astype(bool)]
    return {
        "E": _spread(to_evaluations["at_evaluations"]),
        "E opt": _share(to_evaluations["at_evaluations"]),
        "T": _spread(rows["at_seconds"]),
        "T opt": _share(rows["at_seconds"]),
        "end": _share(rows["at_end"]),
        "opt s": _number(rows["seconds_to_optimum"].median()),
        "per ms": _number(rows["evaluations"].sum() / rows["seconds"].sum() / 1000),
    }


def _spread(gaps: pd.Series[float]) -> str:
    return f"{_number(gaps.median())} ({_number(gaps.max())})" if len(gaps) else ""


def _share(gaps: pd.Series[float]) -> str:
    return f"{(gaps == 0).sum()}/{len(gaps)}" if len(gaps) else ""


def _number(value: float) -> str:
    """Two digits; "none" for an infinite gap: no valid partition yet."""
    if np.isnan(value):
        return ""
    return "none" if np.isinf(value) else f"{value:.2g}" if value < 99.5 else f"{value:.0f}"


def _tasks(instance: Instance, position: int, budgets: dict[int, Effort]) -> Iterator[Task]:
    """Every run on one problem; ``position``: of the problem among those of as many heads."""
    effort = budgets[instance.heads]
    long_here = instance.heads == LONG_HEADS
    for rival in RIVALS:
        if instance.equal_sizes not in rival.sizes or (rival.name == "pymoo NSGA-II" and not is_installed()):
            continue
        for seed in range(effort.seeds if rival.random else 1):
            most = ENDLESS
            if rival.slow:
                to_end = long_here and rival.name in LONG and (seed - position) % (2 * len(KINDS)) == 0
                most = LONG_SECONDS if to_end else effort.seconds
            least = (2**62, ENDLESS) if rival.name == RIVALS[0].name else (EVALUATIONS[instance.heads], effort.seconds)
            yield instance, rival.name, seed, Limits(*least, most_seconds=most)


def _row(task: Task, trajectory: Trajectory, reference: Reference, effort: Effort) -> dict[str, Any]:
    instance, name, seed, limits = task
    reached = trajectory.reached(reference.value)
    values = {
        "evaluations": trajectory.after_evaluations(EVALUATIONS[instance.heads]),
        "seconds": trajectory.after_seconds(effort.seconds),
        "end": trajectory.last,
    }
    spread = reference.random_mean - reference.value
    row: dict[str, Any] = {
        "method": name,
        "kind": instance.kind,
        "heads": instance.heads,
        "groups": instance.groups,
        "sizes": "EC" if instance.equal_sizes else "AC",
        "matrix": instance.seed,
        "seed": seed,
        "reference": f"{reference.value:.12g}",
        "lower_bound": f"{reference.lower_bound:.12g}",
        "proven": reference.proven,
        "random_mean": f"{reference.random_mean:.6g}",
        "limit_evaluations": EVALUATIONS[instance.heads],
        "limit_seconds": effort.seconds,
        "to_evaluations": limits.most_seconds > effort.seconds,
    }
    for when, value in values.items():
        gap = 0.0 if is_reached(value, reference.value) else value - reference.value
        row[f"relative_at_{when}"] = _rounded(gap / reference.value)
        row[f"at_{when}"] = _rounded(100 * gap / spread)
    row |= {
        "seconds_to_optimum": _rounded(reached[0]),
        "evaluations_to_optimum": reached[1],
        "evaluations": trajectory.evaluations[-1],
        "seconds": _rounded(trajectory.seconds[-1]),
    }
    if instance.heads == CURVE_HEADS:
        for count in CURVE_EVALUATIONS:
            row[f"gap_e{count}"] = _rounded(100 * (trajectory.after_evaluations(count) - reference.value) / spread, 4)
        for second in CURVE_SECONDS:
            row[f"gap_s{second}"] = _rounded(100 * (trajectory.after_seconds(second) - reference.value) / spread, 4)
    return row


def _rounded(value: float, digits: int = 6) -> float:
    return float(f"{value:.{digits}g}")


def _reference(instance: Instance) -> Reference:
    """Runs in a worker."""
    budget, errors, problem = instance.budget, PairwiseErrors(instance.distances()), instance.problem()
    evolved = [
        list(run_search(make_method("evolution"), problem, np.random.default_rng([1, seed])))[-1].best
        for seed in range(EVOLUTIONS)
    ]
    rng = np.random.default_rng(0)
    found = solve_pairwise(
        errors.distances,
        instance.groups,
        budget.smallest_group,
        budget.largest_group,
        start=min(evolved, key=lambda best: best.values).grouping.layers[0].groups,
        time_limit=PROOF_SECONDS,
        rng=rng,
    )
    mean = float(errors.evaluate(random_labels(RANDOM_PARTITIONS, budget, rng)).mean())
    return Reference(found.value, found.lower_bound, found.proven, mean)


def _run(task: Task, reference: Reference) -> Trajectory:
    """Runs in a worker. The optimum ends a run only where it is proven."""
    instance, name, seed, limits = task
    instance.problem()  # its distances are kept: not part of the search's time
    (rival,) = (rival for rival in RIVALS if rival.name == name)
    search = rival.search(instance, np.random.default_rng(seed))
    return follow(search, limits, reference.value if reference.proven else -np.inf)


def _lowered(reference: Reference, trajectories: list[Trajectory]) -> Reference:
    """The reference, lowered to what the runs met where it is not proven."""
    lowest = min(value for trajectory in trajectories for value in trajectory.values if not np.isnan(value))
    if lowest >= reference.value or is_reached(reference.value, lowest):
        return reference
    if reference.proven:
        raise ValueError(f"a search met {lowest}, below the proven optimum {reference.value}")
    return replace(reference, value=lowest)


@contextmanager
def _pool() -> Iterator[ProcessPoolExecutor]:
    """Processes of one thread each: the variables must be set before they load numpy."""
    variables = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(PROCESSES, mp_context=spawn, initializer=quiet_libraries, initargs=(0,)) as pool:
            yield pool
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _progress() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=Console(stderr=True))


def _watched(futures: Iterable[Future[T]], progress: Progress, bar: TaskID) -> Iterator[Future[T]]:
    """The futures as they complete, the bar moved on."""
    for future in as_completed(futures):
        progress.advance(bar)
        yield future
