"""Why a candidate is cheap: each trick against what it replaces, on the embedded model's own shapes.

python -m experiments.benchmarks           (or: make bench)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from rich.table import Table

from experiments.benchmarks.timing import Paired, paired
from gqasearch.cli.messages import output_console, quiet_libraries
from gqasearch.config import build_config
from gqasearch.fitness import PreparedGroupFitness, make_fitness
from gqasearch.grouping import LayerGrouping
from gqasearch.steps import Workspace

GENOMES, GROUPS = 200, 6


def random_partitions(heads: int, rng: np.random.Generator) -> list[LayerGrouping]:
    """Partitions of one layer; group counts vary."""
    return [LayerGrouping.from_labels(rng.integers(0, GROUPS, heads).tolist()) for _ in range(GENOMES)]


def weight_sharing(work: Workspace, genomes: list[LayerGrouping]) -> Paired:
    """Weight-sharing error of a population: from the weights, genome by genome, and from the distance matrix."""
    weights = work.parent.layer(0).to(torch.float64)
    heads = torch.cat([weights.k.flatten(1), weights.v.flatten(1)], dim=1)

    def plain() -> float:
        total = 0.0
        for genome in genomes:
            for group in genome.groups:
                chosen = heads[list(group)]
                total += float((chosen - chosen.mean(0)).square().sum())
        return total

    def matrix() -> float:
        prepared = _prepared(work, "weight-sharing-error")
        return sum(prepared.layer_error(0, genome.groups) for genome in genomes)

    _same(plain, matrix)
    return paired("weight-sharing error: matrix and memo against weights", plain, matrix)


def merge_error(work: Workspace, genomes: list[LayerGrouping]) -> Paired:
    """Optimal merge error: from the heads' Grams alone, and measured from merged weights."""
    few = sorted({group for genome in genomes[:20] for group in genome.groups if len(group) > 1})

    def fresh() -> object:
        return work.merge.for_layer(work.parent.layer(0), work.statistics.layer(0))

    def measured() -> float:
        layer = fresh()
        return sum(layer.measured_error(group) for group in few)  # type: ignore[attr-defined]

    def closed() -> float:
        layer = fresh()
        return sum(layer.group_error(group) for group in few)  # type: ignore[attr-defined]

    _same(measured, closed)
    return paired("optimal merge error: Grams against merged weights", measured, closed)


def candidate(work: Workspace, genomes: list[LayerGrouping]) -> Paired:
    """Ranking one grouping of a layer: by running the model (KL, 4,096 tokens), and by its merge error."""
    from gqasearch.grouping import Grouping

    kl = make_fitness("kl", {"tokens": 4096}).prepare(work.context())
    error = _prepared(work, "merge-error")
    whole = [Grouping.uniform(genome, work.parent.geometry.num_layers) for genome in genomes]
    unseen = iter(whole)  # the fitness keeps what it has run

    def by_model() -> object:
        return kl.evaluate([next(unseen)])

    def by_error() -> object:
        return error.evaluate(whole)

    return paired(
        "a candidate whose groups were met before: merge error against running the model",
        by_model,
        by_error,
        3,
        len(whole),
    )


def _prepared(work: Workspace, name: str) -> PreparedGroupFitness:
    prepared = make_fitness(name).prepare(work.context())
    if not isinstance(prepared, PreparedGroupFitness):
        raise TypeError(f"{name} is no group fitness")
    return prepared


def _same(first: Callable[[], float], second: Callable[[], float]) -> None:
    a, b = first(), second()
    if not np.isclose(a, b, rtol=1e-9):
        raise ValueError(f"the two sides of a benchmark disagree: {a} and {b}")


def main() -> None:
    """Print the table."""
    quiet_libraries(0)
    work = Workspace(build_config({}))
    genomes = random_partitions(work.parent.geometry.num_kv_heads, np.random.default_rng(0))
    table = Table("what", "baseline, s", "ours, s", "times faster", "range")
    for measure in (weight_sharing, merge_error, candidate):
        found = measure(work, genomes)
        bounds = f"{found.lowest:.3g} to {found.highest:.3g}"
        table.add_row(found.name, f"{found.baseline:.4g}", f"{found.candidate:.4g}", f"{found.ratio:.3g}", bounds)
    output_console().print(table)


if __name__ == "__main__":
    main()
