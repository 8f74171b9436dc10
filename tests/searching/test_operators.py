"""Every operator keeps what it must keep, whatever it is given; and reaches what it should reach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqasearch.budget import Budget
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching.operators import (
    crossover,
    exchange_layers,
    merge_split,
    move,
    random_counts,
    random_partition,
    repair,
    shift,
    swap,
)
from tests.searching.problems import partitions_within


@st.composite
def budgets(draw: st.DrawFn, layers: int = 1) -> Budget:
    heads = draw(st.integers(2, 14))
    smallest = draw(st.integers(1, min(3, heads)))
    largest = draw(st.integers(smallest, heads))
    low, high = -(-heads // largest), heads // smallest
    if low > high:
        smallest, low, high = 1, -(-heads // largest), heads
    step = draw(st.sampled_from([step for step in (1, 2, 3, 4) if high // step * step >= low]))
    allowed = [count for count in range(low, high + 1) if count % step == 0]
    counts = tuple(draw(st.sampled_from(allowed)) for _ in range(layers))
    return Budget(counts, heads, smallest_group=smallest, largest_group=largest, count_step=step)


seeds = st.integers(0, 2**32 - 1)


def within(layer: LayerGrouping, budget: Budget, count: int) -> None:
    assert layer.num_heads == budget.num_heads
    assert layer.num_groups == count and count % budget.count_step == 0
    assert budget.smallest_group <= min(layer.sizes) <= max(layer.sizes) <= budget.largest


@given(budgets(), seeds)
def test_layer_operators_keep_count_and_bounds(budget: Budget, seed: int) -> None:
    rng, count = np.random.default_rng(seed), budget.counts[0]
    layer = random_partition(count, budget, rng)
    other = random_partition(count, budget, rng)
    within(layer, budget, count)
    for changed in (
        swap(layer, rng),
        move(layer, budget, rng),
        merge_split(layer, budget, rng),
        crossover(layer, other, count, budget, rng),
    ):
        within(changed, budget, count)
    assert sorted(swap(layer, rng).sizes) == sorted(layer.sizes)


@given(budgets(), seeds)
def test_operators_are_their_generator_and_nothing_else(budget: Budget, seed: int) -> None:
    def once() -> list[LayerGrouping]:
        rng = np.random.default_rng(seed)
        a, b = (random_partition(budget.counts[0], budget, rng) for _ in range(2))
        return [a, b, swap(a, rng), move(a, budget, rng), merge_split(a, budget, rng),
                crossover(a, b, budget.counts[0], budget, rng)]  # fmt: skip

    assert once() == once()


@given(budgets(), seeds)
def test_equal_parents_have_an_equal_child(budget: Budget, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layer = random_partition(budget.counts[0], budget, rng)
    assert crossover(layer, layer, budget.counts[0], budget, rng) == layer


@given(budgets(layers=4), seeds, st.booleans())
def test_whole_model_operators_keep_the_total(budget: Budget, seed: int, free: bool) -> None:
    rng = np.random.default_rng(seed)
    first, second = (
        Grouping(tuple(random_partition(count, budget, rng) for count in rng.permutation(budget.counts).tolist()))
        for _ in range(2)
    )
    child = exchange_layers(first, second, budget, free, rng)
    shifted = shift(first, budget, free, rng)
    for grouping in (child, shifted):
        for layer in grouping:
            within(layer, budget, layer.num_groups)
        if not free:
            assert grouping.kv_heads_total == first.kv_heads_total
    for movable in (False, True):
        counts = random_counts(replace(budget, movable=movable), free, rng)
        assert free or sum(counts) == budget.total
        for count in counts:
            within(random_partition(count, budget, rng), budget, count)


@given(budgets(), st.data())
def test_repair_changes_nothing_that_is_right_and_mends_the_rest(budget: Budget, data: st.DataObject) -> None:
    rng = np.random.default_rng(0)
    labels = data.draw(st.lists(st.integers(0, 4), min_size=budget.num_heads, max_size=budget.num_heads))
    broken = LayerGrouping.from_labels(labels)
    mended = repair(broken.groups, budget.counts[0], budget, rng)
    within(mended, budget, budget.counts[0])
    assert repair(mended.groups, budget.counts[0], budget, rng) == mended


@pytest.mark.parametrize(("heads", "groups", "smallest", "largest"), [(5, 2, 1, 5), (6, 3, 1, 3), (6, 3, 2, 2)])
def test_random_partitions_and_mutations_reach_everything(heads: int, groups: int, smallest: int, largest: int) -> None:
    budget = Budget((groups,), heads, smallest_group=smallest, largest_group=largest)
    rng, everything = np.random.default_rng(0), set(partitions_within(budget, groups))
    assert {random_partition(groups, budget, rng) for _ in range(3000)} == everything
    reached = {LayerGrouping.neighbours(heads, groups)}
    for _ in range(4000):
        layer = list(reached)[int(rng.integers(len(reached)))]
        reached |= {swap(layer, rng), move(layer, budget, rng), merge_split(layer, budget, rng)}
    assert reached == everything
