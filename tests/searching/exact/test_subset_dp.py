"""Dynamic programming over subsets against counting out every partition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.group_errors import Group
from gqasearch.grouping import LayerGrouping
from gqasearch.searching.exact.subset_dp import solve_subsets, tabulate_errors
from tests.searching.exact.cases import pairwise_errors
from tests.searching.problems import Pairwise, SetFunction, all_partitions, budgets, fits, partitions_within, seeds


def cost(layer: LayerGrouping, errors: np.ndarray) -> float:
    return sum(float(errors[sum(1 << head for head in group)]) for group in layer.groups)


@settings(max_examples=40)
@given(budgets(max_heads=7), seeds, st.sampled_from([SetFunction, Pairwise]))
def test_optimum_is_that_of_brute_force_for_every_number_of_groups(
    budget: Budget, seed: int, kind: type[SetFunction]
) -> None:
    function = kind(budget.num_heads, seed)
    heads = range(budget.num_heads)

    def alone(group: Group) -> float:
        return function.of(LayerGrouping.from_groups([group, *([h] for h in heads if h not in group)]))

    errors = tabulate_errors(
        lambda groups: [alone(group) for group in groups],
        budget.num_heads,
        budget.smallest_group,
        budget.largest,
    )
    assert errors is not None
    optima = solve_subsets(errors, budget.num_heads, budget.smallest_group, budget.largest)
    for count in range(1, budget.num_heads + 1):
        partitions = partitions_within(budget, count)
        if not partitions:
            assert optima.values[count] == np.inf
            with pytest.raises(UserError, match=f"into {count} groups of {budget.smallest_group}"):
                optima.partition(count)
            continue
        least = min(function.of(layer) for layer in partitions)
        found = optima.partition(count)
        assert found in partitions
        assert optima.values[count] == pytest.approx(least, rel=1e-12, abs=1e-12)
        assert function.of(found) == pytest.approx(least, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("smallest", "largest"), [(1, 9), (3, 3), (2, 4), (1, 4)])
@pytest.mark.parametrize("pairwise", [True, False])
def test_nine_heads_in_every_partition(smallest: int, largest: int, pairwise: bool) -> None:
    errors = np.random.default_rng(5).normal(size=2**9)
    if pairwise:
        errors = pairwise_errors(Pairwise(9, 5).distances)
    least = np.full(10, np.inf)
    for layer in all_partitions(9):
        if all(smallest <= size <= largest for size in layer.sizes):
            least[layer.num_groups] = min(least[layer.num_groups], cost(layer, errors))
    optima = solve_subsets(errors, 9, smallest, largest)
    assert optima.values == pytest.approx(least, rel=1e-12, abs=1e-12)
    for count in np.flatnonzero(np.isfinite(least)).tolist():
        certificate = optima.certificate(count)
        layer = LayerGrouping(certificate.groups)
        assert fits(layer, count, Budget((count,), 9, smallest_group=smallest, largest_group=largest))
        assert cost(layer, errors) == pytest.approx(certificate.value, rel=1e-12, abs=1e-12)
        assert certificate.proven and certificate.gap == 0 and certificate.lower_bound == certificate.value


def test_table_asks_for_groups_in_bounds_once_and_for_no_single_head() -> None:
    asked: list[tuple[int, ...]] = []

    def errors_of(groups: Sequence[Group]) -> list[float]:
        asked.extend(groups)
        assert len({len(heads) for heads in groups}) == 1  # of one size: what can be computed together
        return [float(sum(heads)) for heads in groups]

    errors = tabulate_errors(errors_of, 5, 1, 3)
    assert errors is not None
    assert sorted(asked) == sorted(set(asked)) and {len(heads) for heads in asked} == {2, 3} and len(asked) == 20
    assert errors[0b00001] == 0 and errors[0b01101] == 5 and errors[0b11110] == np.inf


def test_table_gives_up_at_the_time_limit() -> None:
    asked: list[tuple[int, ...]] = []

    def errors_of(groups: Sequence[Group]) -> list[float]:
        asked.extend(groups)
        return [0.0] * len(groups)

    assert tabulate_errors(errors_of, 10, 2, 5, time_limit=-1.0) is None
    assert not asked


def test_sixteen_heads() -> None:
    """Two planted groups of eight at negative cost, all else free: the optimum is known."""
    errors = np.zeros(2**16)
    planted = 0b1010_1010_1010_1010
    errors[planted] = errors[0xFFFF ^ planted] = -1.0
    optima = solve_subsets(errors, 16, 8, 8)
    assert optima.values[2] == -2
    assert optima.partition(2).groups == (tuple(range(0, 16, 2)), tuple(range(1, 16, 2)))
    assert np.isinf(np.delete(optima.values, 2)).all()


def test_what_cannot_be_solved_is_refused() -> None:
    with pytest.raises(UserError, match="1 to 16 heads, got 17"):
        solve_subsets(np.zeros(2), 17, 1, 17)
    with pytest.raises(UserError, match=r"shape \(8,\) for 3 heads, got \(7,\)"):
        solve_subsets(np.zeros(7), 3, 1, 3)
    with pytest.raises(UserError, match=r"finite, got nan for heads \[0, 2\]"):
        solve_subsets(np.array([0, 0, 0, 0, 0, np.nan, 0, 0]), 3, 1, 3)
    with pytest.raises(UserError, match="1 <= smallest <= largest <= 3, got 2 and 1"):
        solve_subsets(np.zeros(8), 3, 2, 1)
    with pytest.raises(UserError, match=r"number of groups must be in 1\.\.3, got 4"):
        solve_subsets(np.zeros(8), 3, 1, 3).partition(4)
