"""Fitness functions of keys and values that are grouped apart: a candidate has two partitions for every layer."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from gqasearch.evaluation import Converter, evaluate_quality
from gqasearch.evaluation.runners import ParentLayers
from gqasearch.fitness import PreparedGroupFitness, make_fitness
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.refining import NoRefinement
from gqasearch.separate_grouping import SeparateGrouping
from gqasearch.testing import LAYERS, tiny_context

SUMS = ("merge-error", "weight-sharing-error", "activation-cosine")
LAYER = LayerGrouping.from_labels([0, 1, 0, 2, 1, 0])
OTHER = LayerGrouping.from_labels([0, 0, 1, 1, 2, 2])


def twice(layers: list[LayerGrouping]) -> Grouping:
    """The same partitions for keys and values."""
    return Grouping(tuple(layer for layer in layers for _ in range(2)))


@pytest.mark.parametrize("name", SUMS)
def test_keys_and_values_add_up_to_both(name: str) -> None:
    """And neither side's error depends on the other's partition."""
    context = tiny_context()
    one = make_fitness(name).prepare(context)
    two = make_fitness(name).prepare(replace(context, separate_kv=True))
    assert isinstance(one, PreparedGroupFitness) and isinstance(two, PreparedGroupFitness)
    layers = [LAYER] * LAYERS
    assert two.evaluate([twice(layers)]) == pytest.approx(one.evaluate([Grouping(tuple(layers))]), rel=1e-9)
    for layer, groups in product(range(LAYERS), (LAYER.groups, OTHER.groups)):
        parts = [two.layer_error(2 * layer + side, groups) for side in range(2)]
        assert sum(parts) == pytest.approx(one.layer_error(layer, groups), rel=1e-9) and min(parts) > 0


@pytest.mark.parametrize("name", SUMS)
def test_the_best_of_all_partitions_is_the_best_of_each_side(name: str) -> None:
    """Brute force over every pair of partitions of six heads into two groups."""
    prepared = make_fitness(name).prepare(replace(tiny_context(), separate_kv=True))
    assert isinstance(prepared, PreparedGroupFitness)
    halves = list(
        {LayerGrouping.from_labels(row) for row in product((0, 1), repeat=6)} - {LayerGrouping.from_labels([0] * 6)}
    )
    errors = [[prepared.layer_error(side, layer.groups) for layer in halves] for side in range(2)]
    best = [halves[int(np.argmin(side))] for side in errors]
    rest = [LAYER] * (2 * LAYERS - 2)
    candidates = [Grouping((keys, values, *rest)) for keys in halves for values in halves]
    assert candidates[int(np.argmin(prepared.evaluate(candidates)))].layers[:2] == tuple(best)


@pytest.mark.parametrize("name", ["kl", "perplexity"])
def test_the_whole_model_is_run_with_both_partitions(name: str) -> None:
    context = replace(tiny_context(), refinement=NoRefinement(), separate_kv=True)
    prepared = make_fitness(name).prepare(context)
    candidates = [
        Grouping((LAYER, OTHER, *[LAYER] * (2 * LAYERS - 2))),
        Grouping((OTHER, LAYER, *[LAYER] * (2 * LAYERS - 2))),
    ]
    blocks = context.load_search_blocks()
    converter = Converter(context.parent, context.merge, context.load_statistics)
    runners = {str(i): converter.runner(SeparateGrouping.from_sides(one)) for i, one in enumerate(candidates)}
    _, wanted = evaluate_quality(ParentLayers(context.parent), runners, blocks)
    figures = [getattr(wanted[str(i)], name) for i in range(2)]
    assert prepared.evaluate(candidates) == pytest.approx(figures, rel=1e-4)
    assert figures[0] != pytest.approx(figures[1], rel=1e-3)


def test_every_fitness_of_ours_takes_them() -> None:
    names = (*SUMS, "kl", "perplexity", "healed-kl", "attention-output-error")
    assert all(make_fitness(name).takes_sides for name in names)
