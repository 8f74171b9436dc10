"""Bounded assignment, Lloyd's algorithm and agglomeration against brute force and scipy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.cluster.hierarchy import fcluster, linkage

from gqasearch.budget import Budget
from gqasearch.grouping import LayerGrouping
from gqasearch.pairwise import FloatArray, pairwise_errors
from gqasearch.searching import PairwiseErrors, Problem, SetErrors, make_method
from gqasearch.searching.baselines.assignment import assign, centroid_distances, within_bounds
from gqasearch.searching.baselines.k_means import lloyd, plus_plus_seeds
from gqasearch.searching.baselines.pair_distances import pair_distances
from gqasearch.searching.operators import random_partition
from tests.searching.problems import SetFunction, budgets, one_by_one, seeds


def points(heads: int, seed: int) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(heads, 4))


def squared(x: FloatArray) -> FloatArray:
    return ((x[:, None] - x[None]) ** 2).sum(-1)


def problem(distances: FloatArray, budget: Budget) -> Problem:
    errors = PairwiseErrors(distances)
    return Problem({"error": errors.objective}, budget, layer_errors=(errors,))


@settings(max_examples=60, deadline=None)
@given(budgets(max_heads=6), seeds)
def test_assignment_is_the_cheapest_within_bounds(budget: Budget, seed: int) -> None:
    (count,) = budget.counts
    costs = np.random.default_rng(seed).normal(size=(budget.num_heads, count)) * 10.0 ** (seed % 7 - 3)
    rows = np.arange(budget.num_heads)
    every = (np.array(labels) for labels in product(range(count), repeat=budget.num_heads))
    cheapest = min(costs[rows, labels].sum() for labels in every if within_bounds(labels, count, budget))
    labels = assign(costs, budget)
    assert within_bounds(labels, count, budget)
    assert costs[rows, labels].sum() == pytest.approx(cheapest, rel=1e-9, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(budgets(), seeds)
def test_centroid_distances_are_those_of_the_points(budget: Budget, seed: int) -> None:
    (count,) = budget.counts
    x = points(budget.num_heads, seed)
    labels = np.array(random_partition(count, budget, np.random.default_rng(seed)).labels)
    centroids = np.array([x[labels == group].mean(axis=0) for group in range(count)])
    expected = ((x[:, None] - centroids[None]) ** 2).sum(-1)
    np.testing.assert_allclose(centroid_distances(squared(x), labels, count), expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(budgets(), seeds)
def test_k_means_ends_where_no_lloyd_step_improves(budget: Budget, seed: int) -> None:
    (count,) = budget.counts
    x = points(budget.num_heads, seed)
    heads = plus_plus_seeds(squared(x), count, np.random.default_rng(seed))
    assert len(set(heads.tolist())) == count
    labels, evaluations = lloyd(squared(x), heads, budget, 50)
    assert within_bounds(labels, count, budget) and evaluations < 50
    centroids = np.array([x[labels == group].mean(axis=0) for group in range(count)])
    step = assign(((x[:, None] - centroids[None]) ** 2).sum(-1), budget)
    before, after = pairwise_errors(squared(x), np.stack([labels, step]))
    assert after >= before * (1 - 1e-9)


def test_lloyd_goes_downhill_and_stops_when_told() -> None:
    improved = 0
    for seed in range(20):
        x = np.random.default_rng(seed).normal(size=(30, 2))
        heads = plus_plus_seeds(squared(x), 4, np.random.default_rng(seed))
        errors = []
        for iterations in range(6):
            labels, evaluations = lloyd(squared(x), heads, Budget((4,), 30, largest_group=10), iterations)
            errors.append(float(pairwise_errors(squared(x), labels[None])[0]))
            assert evaluations <= iterations + 1
        assert errors == sorted(errors, reverse=True)
        improved += errors[-1] < errors[1] < errors[0]
    assert improved > 5


def test_seeds_that_coincide_are_still_different_heads() -> None:
    heads = plus_plus_seeds(np.zeros((5, 5)), 5, np.random.default_rng(0))
    assert sorted(heads.tolist()) == list(range(5))


@pytest.mark.parametrize("kind", ["ward", "average"])
def test_agglomerative_is_scipys_where_no_bound_binds(kind: str) -> None:
    differ = 0
    for seed in range(10):
        x = points(12, seed)
        expected = LayerGrouping.from_labels(fcluster(linkage(x, kind), 4, criterion="maxclust"))
        method = make_method("agglomerative", {"linkage": kind})
        (only,) = method.search(problem(squared(x), Budget((4,), 12)), np.random.default_rng(0))
        assert only.best.grouping.layers == (expected,)
        other = LayerGrouping.from_labels(fcluster(linkage(x, "single"), 4, criterion="maxclust"))
        differ += other != expected
    assert differ > 5


def test_agglomerative_clusters_that_break_a_bound_are_mended_as_cheaply_as_can_be() -> None:
    x = points(6, 1)
    free = LayerGrouping.from_labels(fcluster(linkage(x, "ward"), 2, criterion="maxclust"))
    assert sorted(free.sizes) != [3, 3]
    budget = Budget((2,), 6, smallest_group=3, largest_group=3)
    (only,) = make_method("agglomerative").search(problem(squared(x), budget), np.random.default_rng(0))
    centroids = np.array([x[list(group)].mean(axis=0) for group in free.groups])
    costs = ((x[:, None] - centroids[None]) ** 2).sum(-1)
    equal = (labels for labels in product(range(2), repeat=6) if sum(labels) == 3)
    expected = min(equal, key=lambda labels: costs[np.arange(6), list(labels)].sum())
    assert only.best.grouping.layers == (LayerGrouping.from_labels(expected),)


def test_pair_distances_give_the_errors_of_groups_of_two() -> None:
    function = SetFunction(5, 0)
    errors = SetErrors(5, one_by_one(function.error))
    distances = pair_distances(errors)
    assert np.array_equal(distances, distances.T) and not distances.diagonal().any()
    assert PairwiseErrors(distances).group_error((1, 3)) == function.error((1, 3))
    exact = PairwiseErrors(squared(points(5, 0)))
    assert pair_distances(exact) is exact.distances
