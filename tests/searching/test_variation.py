"""What single operators do: what a child inherits, where groups move, how far mutants go, where a search starts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqasearch.budget import Budget
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching import Problem
from gqasearch.searching.evolution.variation import mutate, usable_weights
from gqasearch.searching.operators import (
    crossover,
    exchange,
    exchange_layers,
    merge_split,
    move,
    random_counts,
    random_partition,
    relocate,
    shift,
    swap,
)
from gqasearch.searching.starts import neighbour_grouping, starting_groupings
from tests.searching.problems import budgets, fits, kv_heads, one_layer, partitions_within, seeds

Mutation = Callable[[LayerGrouping, Budget, np.random.Generator], LayerGrouping]


def model(budget: Budget, seed: int) -> Grouping:
    """A random model within the budget."""
    rng = np.random.default_rng(seed)
    return Grouping(tuple(random_partition(count, budget, rng) for count in random_counts(budget, False, rng)))


def test_random_sizes_are_uniform_over_size_lists() -> None:
    rng = np.random.default_rng(0)
    largest = [max(random_partition(2, Budget((2,), 10), rng).sizes) for _ in range(2000)]
    # Two of the nine lists (1, 9) ... (9, 1); labelling heads at random gives 1 in 50.
    assert abs(largest.count(9) / len(largest) - 2 / 9) < 0.04


@pytest.mark.parametrize(
    ("mutation", "budget"),
    [
        (merge_split, Budget((3,), 6)),
        (merge_split, Budget((3,), 6, smallest_group=2, largest_group=2)),
        (lambda layer, _, rng: swap(layer, rng), Budget((2,), 6, smallest_group=3, largest_group=3)),
        (move, Budget((3,), 6)),
        (move, Budget((3,), 6, largest_group=3)),
    ],
    ids=["merge_split", "merge_split-EC", "swap-EC", "move", "move-bounded"],
)
def test_one_mutation_alone_reaches_every_partition(mutation: Mutation, budget: Budget) -> None:
    rng = np.random.default_rng(0)
    layer = random_partition(budget.counts[0], budget, rng)
    met = set()
    for _ in range(3000):
        layer = mutation(layer, budget, rng)
        met.add(layer)
    assert met == set(partitions_within(budget, budget.counts[0]))


@given(budgets(), seeds)
def test_swap_changes_the_partition_wherever_one_can(budget: Budget, seed: int) -> None:
    layer = random_partition(budget.counts[0], budget, np.random.default_rng(seed))
    can = 1 < layer.num_groups < layer.num_heads
    assert (swap(layer, np.random.default_rng(seed)) != layer) == can


def test_exchange_and_relocate_do_what_they_say() -> None:
    layer = LayerGrouping.from_groups([[0, 3], [1, 2, 4]])
    assert exchange(layer, 3, 1) == LayerGrouping.from_groups([[0, 1], [3, 2, 4]])
    assert relocate(layer, 4, 0) == LayerGrouping.from_groups([[0, 3, 4], [1, 2]])


@given(st.integers(2, 9), st.data(), seeds)
def test_child_has_every_group_that_both_parents_have(heads: int, data: st.DataObject, seed: int) -> None:
    rng = np.random.default_rng(seed)
    low, high = sorted(data.draw(st.lists(st.integers(1, heads), min_size=2, max_size=2)))
    budget = Budget((low,), heads)
    first = random_partition(low, budget, rng)
    second = swap(first, rng) if low == high else random_partition(high, budget, rng)
    for count in (low, high):
        child = crossover(first, second, count, budget, rng)
        assert child.num_groups == count
        assert set(first.groups) & set(second.groups) <= set(child.groups)


def test_a_child_with_too_few_groups_is_split_where_its_parents_differ() -> None:
    """Once (0, 1, 4, 5) is inherited whole, no head is left for two of the five groups."""
    first = LayerGrouping.from_groups([[0, 1, 4, 5], [2], [3, 6]])
    second = LayerGrouping.from_groups([[0], [1, 4], [2], [3, 6], [5]])
    budget, shared, met = Budget((5,), 7), {(2,), (3, 6)}, set()
    for seed in range(200):
        child = crossover(first, second, 5, budget, np.random.default_rng(seed))
        assert child.num_groups == 5 and shared <= set(child.groups)
        met.add(child)
    assert second in met and len(met) > 3  # also children that neither parent is


def test_most_groups_of_a_child_are_whole_groups_of_its_parents() -> None:
    budget, rng = Budget((6,), 18), np.random.default_rng(0)
    shares, new = [], 0
    for _ in range(200):
        first = second = random_partition(6, budget, rng)
        for _ in range(4):
            second = move(second, budget, rng)
        child = crossover(first, second, 6, budget, rng)
        shares.append(len(set(child.groups) & {*first.groups, *second.groups}) / 6)
        new += child not in (first, second)
    assert np.mean(shares) > 0.7 and new > 50


@given(st.permutations(range(4)), seeds)
def test_relabelled_parents_have_the_same_child(renaming: list[int], seed: int) -> None:
    rng, budget = np.random.default_rng(seed), Budget((4,), 10)
    labels = [*range(4), *rng.integers(4, size=6).tolist()]
    other = random_partition(4, budget, rng)
    rows = labels, [renaming[label] for label in labels]
    parents = [LayerGrouping.from_labels(row) for row in rows]
    assert len({crossover(parent, other, 4, budget, np.random.default_rng(seed)) for parent in parents}) == 1


def bounds(budget: Budget) -> tuple[int, int]:
    """Fewest and most groups that the sizes allow."""
    return -(-budget.num_heads // budget.largest), budget.num_heads // budget.smallest_group


@given(budgets(max_layers=4, movable=True), seeds)
def test_shift_moves_one_step_between_two_layers(budget: Budget, seed: int) -> None:
    before = model(budget, seed)
    shifted = shift(before, budget, False, np.random.default_rng(seed))
    change = sorted(np.subtract(shifted.group_counts, before.group_counts).tolist())
    low, high, counts, step = *bounds(budget), before.group_counts, budget.count_step
    can = any(
        i != j and a - step >= low and b + step <= high for i, a in enumerate(counts) for j, b in enumerate(counts)
    )
    assert change == ([-step] + [0] * (len(change) - 2) + [step] if can else [0] * len(change))


@given(budgets(max_layers=4), seeds)
def test_shift_of_free_counts_changes_one_layer_by_one_step(budget: Budget, seed: int) -> None:
    before = model(budget, seed)
    shifted = shift(before, budget, True, np.random.default_rng(seed))
    low, high = bounds(budget)
    change = np.abs(np.subtract(shifted.group_counts, before.group_counts)).sum()
    allowed = [count for count in range(low, high + 1) if count % budget.count_step == 0]
    assert change == (budget.count_step if len(allowed) > 1 else 0)


def test_a_child_has_layers_of_both_parents() -> None:
    budget = Budget((2, 3, 2, 3), 6)
    parents, rng = (model(budget, 0), model(budget, 1)), np.random.default_rng(0)
    children = [exchange_layers(*parents, budget, False, rng) for _ in range(200)]
    assert all(child.group_counts == budget.counts for child in children)
    for layer in range(4):
        assert {parent.layers[layer] for parent in parents} <= {child.layers[layer] for child in children}


@given(budgets(max_layers=4, movable=True), seeds)
def test_random_counts_of_a_movable_budget_have_its_sum(budget: Budget, seed: int) -> None:
    counts = random_counts(budget, False, np.random.default_rng(seed))
    low, high = bounds(budget)
    assert sum(counts) == budget.total
    assert all(low <= count <= high and count % budget.count_step == 0 for count in counts)


def test_random_counts_vary_where_they_may() -> None:
    rng = np.random.default_rng(0)
    movable = Budget((3,) * 4, 6, movable=True)
    assert len({random_counts(movable, False, rng) for _ in range(50)}) > 10
    totals = [sum(random_counts(Budget((3,) * 8, 6), True, rng)) for _ in range(300)]
    assert min(totals) <= 12 and max(totals) >= 44  # of 8 .. 48; drawn layer by layer, 28 give or take 10


@given(budgets(max_layers=3), seeds)
def test_mutants_keep_a_fixed_budget(budget: Budget, seed: int) -> None:
    problem = Problem({"error": kv_heads}, budget)
    weights = usable_weights({"swap": 1.0, "move": 1.0, "merge_split": 0.5, "shift": 1.0}, problem)
    assert sum(weights.values()) == pytest.approx(1) and "shift" not in weights
    mutant = mutate(model(budget, seed), problem, weights, np.random.default_rng(seed))
    assert all(fits(layer, count, budget) for layer, count in zip(mutant, budget.counts, strict=True))


def test_mutants_are_one_step_away_mostly_and_further_at_times() -> None:
    start = Grouping((LayerGrouping.neighbours(16, 8),))
    problem, rng = one_layer(kv_heads, 16, 8), np.random.default_rng(0)
    mutants = [mutate(start, problem, {"swap": 1.0}, rng) for _ in range(300)]
    changed = [8 - len(set(start.layers[0].groups) & set(mutant.layers[0].groups)) for mutant in mutants]
    assert 120 < changed.count(2) < 210 and max(changed) >= 5


def test_starts_are_neighbours_and_random_partitions() -> None:
    problem = one_layer(kv_heads, 10, 4)
    starts = starting_groupings(problem, 20, np.random.default_rng(0))
    assert starts[0] == neighbour_grouping(problem) and len(starts) == len(set(starts)) == 20
    assert all(fits(start.layers[0], 4, problem.budget) for start in starts)
    assert len(starting_groupings(one_layer(kv_heads, 4, 2), 20, np.random.default_rng(0))) == 7  # all there are


def test_starts_of_free_counts_hold_neighbours_at_every_level() -> None:
    problem = Problem({"error": kv_heads}, Budget((3, 3), 8), free_counts=True)
    starts = starting_groupings(problem, 24, np.random.default_rng(0))
    levels = [g for g in range(1, 9) if Grouping.uniform(LayerGrouping.neighbours(8, g), 2) in starts]
    assert {1, 8} < set(levels) and len(levels) >= 6  # a quarter of the population
    assert len({start.kv_heads_total for start in starts}) > len(levels)
