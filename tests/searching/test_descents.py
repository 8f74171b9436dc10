"""Deltas are what full evaluations say, and descents end where no swap or move gains."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given

from gqasearch.budget import Budget
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.pairwise import pairwise_errors
from gqasearch.searching import GroupErrors, PairwiseErrors, Problem, SetErrors
from gqasearch.searching.evolution.group_descent import GroupDescent
from gqasearch.searching.evolution.neighbour_descent import neighbours_between
from gqasearch.searching.evolution.pairwise_descent import PairwiseDescent
from gqasearch.searching.operators import exchange, random_partition, relocate
from gqasearch.searching.record import Record
from gqasearch.searching.walk import Walk
from tests.searching.problems import Pairwise, SetFunction, budgets, one_by_one, seeds


def start_labels(budget: Budget, count: int, rng: np.random.Generator) -> np.ndarray:
    return np.array([random_partition(budget.counts[0], budget, rng).labels for _ in range(count)])


def problem_of(errors: GroupErrors, budget: Budget) -> Problem:
    return Problem({"error": errors.objective}, budget, layer_errors=(errors,))


@given(budget=budgets(max_heads=9), seed=seeds)
def test_deltas_equal_full_evaluations(budget: Budget, seed: int) -> None:
    distances = Pairwise(budget.num_heads, seed).distances
    labels = start_labels(budget, 3, np.random.default_rng(seed))
    walk, rows = Walk(distances, labels, budget), np.arange(3)
    before = pairwise_errors(distances, labels)
    np.testing.assert_allclose(walk.errors(rows), before, rtol=1e-12, atol=1e-12)
    swaps, moves = walk.swap_deltas(rows), walk.move_deltas(rows)
    for row, layer in enumerate(map(LayerGrouping.from_labels, labels.tolist())):
        for i, j in combinations(range(budget.num_heads), 2):
            if labels[row, i] == labels[row, j]:
                assert swaps[row, i, j] == np.inf
            else:
                after = pairwise_errors(distances, np.array([exchange(layer, i, j).labels]))[0]
                assert before[row] + swaps[row, i, j] == pytest.approx(after, rel=1e-9, abs=1e-9)
                assert swaps[row, i, j] == pytest.approx(swaps[row, j, i], rel=1e-12)
        for head in range(budget.num_heads):
            for taker in range(layer.num_groups):
                giver = layer.groups[layer.labels[head]]
                allowed = len(giver) > budget.smallest_group and len(layer.groups[taker]) < budget.largest
                if head in layer.groups[taker] or not allowed:
                    assert moves[row, head, taker] == np.inf
                else:
                    after = pairwise_errors(distances, np.array([relocate(layer, head, taker).labels]))[0]
                    assert before[row] + moves[row, head, taker] == pytest.approx(after, rel=1e-9, abs=1e-9)


@given(budget=budgets(max_heads=10), seed=seeds)
def test_a_walk_keeps_its_sums_while_it_moves(budget: Budget, seed: int) -> None:
    rng = np.random.default_rng(seed)
    distances = Pairwise(budget.num_heads, seed).distances
    walk = Walk(distances, start_labels(budget, 2, rng), budget)
    for _ in range(5):
        swaps, moves = walk.swap_deltas(np.array([1]))[0], walk.move_deltas(np.array([1]))[0]
        for deltas, step in ((swaps, walk.swap), (moves, walk.move)):
            places = np.argwhere(np.isfinite(deltas))
            if len(places):
                i, j = places[rng.integers(len(places))]
                step(np.array([1]), np.array([i]), np.array([j]))
                break
    fresh = Walk(distances, walk.labels, budget)
    np.testing.assert_allclose(walk.sums[..., : fresh.sums.shape[2]], fresh.sums, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(walk.sizes[..., : fresh.sizes.shape[1]], fresh.sizes)


@pytest.mark.parametrize(("smallest", "largest"), [(3, 3), (1, 12), (2, 5)])
@pytest.mark.parametrize("kind", ["pairwise", "set"])
def test_descents_end_where_no_swap_or_move_gains(kind: str, smallest: int, largest: int) -> None:
    budget = Budget((4,), 12, smallest_group=smallest, largest_group=largest)
    errors: GroupErrors
    if kind == "pairwise":
        errors = PairwiseErrors(Pairwise(12, 0).distances)
        record = Record(problem_of(errors, budget))
        descent: PairwiseDescent | GroupDescent = PairwiseDescent(record, errors.distances)
    else:
        errors = SetErrors(12, one_by_one(SetFunction(12, 0).error))
        record = Record(problem_of(errors, budget))
        descent = GroupDescent(record, errors, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    starts = record.evaluate([Grouping((random_partition(4, budget, rng),)) for _ in range(5)])
    before = record.evaluations
    ends = descent.descend(starts, 1000)
    assert record.evaluations > before + len(record) - 5
    for start, end in zip(starts, ends, strict=True):
        assert end.candidate.values <= start.candidate.values
        layer = end.grouping.layers[0]
        assert all(smallest <= size <= largest for size in layer.sizes) and layer.num_groups == 4
        for one, two in combinations(range(4), 2):
            near = [Grouping((other,)) for other in neighbours_between(layer, one, two, budget)]
            if near:
                assert errors.objective(near).min() >= end.candidate.values[0] * (1 - 1e-9)


def test_a_descent_stops_at_the_limit_on_evaluations() -> None:
    budget = Budget((4,), 12)
    errors = PairwiseErrors(Pairwise(12, 0).distances)
    whole = Record(problem_of(errors, budget))
    start = Grouping((random_partition(4, budget, np.random.default_rng(0)),))
    PairwiseDescent(whole, errors.distances).descend(whole.evaluate([start]), 100)
    for limit in (1, 40, whole.evaluations - 2):
        record = Record(problem_of(errors, budget), limit)
        ends = PairwiseDescent(record, errors.distances).descend(record.evaluate([start]), 100)
        assert record.evaluations <= limit and ends
        sets = SetErrors(12, one_by_one(Pairwise(12, 0).error))
        record = Record(problem_of(sets, budget), limit)
        assert GroupDescent(record, sets, np.random.default_rng(0)).descend(record.evaluate([start]), 100)
        assert record.evaluations <= limit


def test_settled_pairs_of_groups_are_skipped() -> None:
    asked: list[tuple[int, ...]] = []

    def function(heads: tuple[int, ...]) -> float:
        asked.append(heads)
        return 0.0

    errors = SetErrors(12, one_by_one(function))
    record = Record(problem_of(errors, Budget((4,), 12)))
    descent = GroupDescent(record, errors, np.random.default_rng(0))
    first = LayerGrouping.neighbours(12, 4)
    second = exchange(first, 0, 3)  # the groups {6, 7, 8} and {9, 10, 11} are in both
    individuals = record.evaluate([Grouping((first,)), Grouping((second,))])
    before = record.evaluations
    assert descent.descend(individuals[:1], 1) == individuals[:1]
    assert record.evaluations - before == 6 * (9 + 6)  # every pair: nine swaps and six moves
    before = record.evaluations
    descent.descend(individuals[1:], 1)
    assert record.evaluations - before == 5 * (9 + 6)  # all but the pair that both have
    before = record.evaluations
    descent.descend(individuals, 1)
    assert record.evaluations == before
