"""The searches that the benchmark compares, all as (evaluations, lowest error) per generation.

Parameters let every method use its budget: so many chains, restarts or trials that it neither ends before E
evaluations nor cools or climbs too slowly for them. The rest are the methods' defaults, but for what was tuned at
H = 32 on trained heads, EC and AC, with one to three seeds. Annealing: chains (10, 30, 100: equally good at E, 100 the
fastest), temperatures (none better than the defaults). Hill-climb: swaps per restart (1,000, 3,000, 6,000: 3,000 best).
DEAP: population (30, 100, 300: 30 best up to 130,000 evaluations), mutation rate (0.5, 1: 1, the default, better at
EC, no different at AC). pymoo: see its file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import Any, TypeAlias

import numpy as np

from experiments.benchmarks.instances import Instance
from experiments.benchmarks.pymoo_rival import pymoo_nsga2
from gqasearch.pairwise import FloatArray, IntArray
from gqasearch.searching import make_method
from gqasearch.searching.evolution.pairwise_descent import PairwiseDescent
from gqasearch.searching.papers.nsga2_genomes import LabelGenomes, RunGenomes
from gqasearch.searching.papers.nsga2_integers import NSGA2, Rates
from gqasearch.searching.record import Record
from gqasearch.searching.runner import run_search
from gqasearch.searching.starts import random_grouping

Steps: TypeAlias = Iterator[tuple[int, float]]
# Gives (evaluations, lowest error) per generation.
Search: TypeAlias = Callable[[Instance, np.random.Generator], Steps]
Settings: TypeAlias = Callable[[Instance], dict[str, Any]]

# E by number of heads: what the default evolution needs to end, about.
EVALUATIONS = {16: 30_000, 32: 250_000, 64: 2_500_000}

# More than any run reaches: limits on evaluations and seconds end it.
ENDLESS = 10**9
# Steepest descents at a time, and the most steps of one.
STARTS, DESCENT_STEPS = 30, 1000
# Proposals of annealing and hill-climbing that are changes (the others stay in a group), about.
EFFECTIVE = 0.85


@dataclass(frozen=True)
class Rival:
    """A row of the table ("plain" evolution: without descent).

    ``random``: seeds matter. ``slow``: E evaluations take it more than a few seconds.
    """

    name: str
    search: Search
    random: bool = True
    slow: bool = False
    sizes: tuple[bool, ...] = (True, False)  # EC, AC


def method(name: str, settings: dict[str, Any] | Settings | None = None) -> Search:
    """A method of gqasearch with these parameters, the same for every instance or not."""

    def search(instance: Instance, rng: np.random.Generator) -> Steps:
        chosen = make_method(name, settings(instance) if callable(settings) else settings)
        for generation in run_search(chosen, instance.problem(), rng):
            yield generation.evaluations, generation.best.values[0]

    return search


def multi_start(instance: Instance, rng: np.random.Generator) -> Steps:
    """Steepest descents (evolution's) from random partitions, 30 at a time."""
    problem = instance.problem()
    record = Record(problem)
    descent = PairwiseDescent(record, instance.distances())
    while True:
        starts = record.evaluate([random_grouping(problem, rng) for _ in range(STARTS)])
        descent.descend(starts, DESCENT_STEPS)
        yield record.evaluations, record.best.candidate.values[0]


def ward_descent(instance: Instance, rng: np.random.Generator) -> Steps:
    """Steepest descent from what Ward's clustering gives."""
    problem = instance.problem()
    *_, ward = run_search(make_method("agglomerative", {"linkage": "ward"}), problem, rng)
    record = Record(problem)
    (start,) = record.evaluate([ward.best.grouping])
    PairwiseDescent(record, instance.distances()).descend([start], DESCENT_STEPS)
    yield record.evaluations, record.best.candidate.values[0]


def qcqa_stage_one(instance: Instance, rng: np.random.Generator) -> Steps:
    """QCQA's NSGA-II over (groups / H, error) of one layer; its best with exactly G groups within bounds.

    Its own population, rates and genomes. Genomes keep to the bound on the largest group, which spares it part of the
    front (fewer groups at EC).
    """
    budget = replace(instance.budget, smallest_group=1)
    genomes = RunGenomes(budget) if instance.equal_sizes else LabelGenomes(budget)
    errors, met = instance.problem().layer_errors, {"evaluations": 0, "best": np.nan}
    if errors is None:
        raise ValueError("the instances are sums over groups")
    layer = errors[0]

    def evaluate(rows: IntArray) -> FloatArray:
        labels = genomes.labels(rows)
        values = layer.evaluate(labels)
        counts = 1 + (np.diff(np.sort(labels, axis=1), axis=1) > 0).sum(axis=1)
        met["evaluations"] += len(rows)
        met["best"] = float(np.fmin.reduce([met["best"], *values[counts == instance.groups]]))
        return np.stack([counts / instance.heads, values], axis=1)

    population = NSGA2(genomes, evaluate, Rates(100, 0.9, 1 / instance.heads), rng)
    for step in chain([population.start], repeat(population.advance)):
        step()
        yield int(met["evaluations"]), met["best"]


def annealing_settings(instance: Instance) -> dict[str, Any]:
    """Many chains: numpy makes them cheap. A thousand or more steps each."""
    chains = {16: 30, 32: 100, 64: 200}[instance.heads]
    return {"chains": chains, "steps": int(EVALUATIONS[instance.heads] / chains / EFFECTIVE)}


def hill_climb_settings(instance: Instance) -> dict[str, Any]:
    """3,000 swaps per restart at H = 32, as in the paper, in proportion to the number of pairs elsewhere."""
    swaps = 3 * instance.heads**2
    restarts = max(int(EVALUATIONS[instance.heads] / swaps / EFFECTIVE), 1)
    return {"restarts": restarts, "swaps": swaps, "moves": not instance.equal_sizes}


RIVALS: tuple[Rival, ...] = (
    Rival("evolution", method("evolution")),
    Rival(
        "evolution, plain",
        method("evolution", {"local_steps": 0, "generations": ENDLESS, "patience": ENDLESS}),
        slow=True,
    ),
    Rival("multi-start", multi_start),
    Rival("annealing", method("annealing", annealing_settings)),
    Rival("hill-climb", method("hill-climb", hill_climb_settings)),
    Rival("Ward + descent", ward_descent, random=False),
    Rival("k-means", method("k-means", {"restarts": ENDLESS}), slow=True),
    Rival("Ward", method("agglomerative", {"linkage": "ward"}), random=False),
    Rival("average linkage", method("agglomerative", {"linkage": "average"}), random=False),
    Rival("qcqa-ac, stage 1", qcqa_stage_one, slow=True, sizes=(False,)),
    Rival("qcqa-ec, stage 1", qcqa_stage_one, slow=True, sizes=(True,)),
    Rival("asymgqa, n=10", method("asymgqa")),
    Rival("asymgqa, n=E", method("asymgqa", {"iterations": ENDLESS}), slow=True),
    Rival("deap-stock", method("deap-stock", {"generations": ENDLESS, "population": 30}), slow=True),
    Rival("pymoo NSGA-II", pymoo_nsga2, slow=True),
    Rival("tpe", method("tpe", {"trials": ENDLESS, "batch": 5}), slow=True),
    Rival("cma-es", method("cma-es", {"trials": ENDLESS, "batch": 10}), slow=True),
    Rival("random", method("random", {"samples": ENDLESS, "batch": 100}), slow=True),
    Rival("norm-sort", method("norm-sort"), random=False),
    Rival("neighbour", method("neighbour"), random=False),
)
