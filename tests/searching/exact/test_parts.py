"""The parts of column generation, each against counting out."""

from __future__ import annotations

import math
from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gqasearch.searching.exact import closing
from gqasearch.searching.exact.closing import Pool, cut_hits, violated_cuts
from gqasearch.searching.exact.enumeration import all_columns, number_of_groups
from gqasearch.searching.exact.local_pricing import random_columns, search_columns
from gqasearch.searching.exact.multi_start import descend, random_labels
from gqasearch.searching.exact.pairwise_problem import PairwiseProblem, groups_of
from gqasearch.searching.exact.pricing import EnumeratedPricer, Pricer, TreePricer
from gqasearch.searching.exact.pricing_targets import easiest_targets
from gqasearch.searching.exact.size_patterns import ListedPatterns, SizePatterns
from gqasearch.searching.exact.subset_dp import solve_subsets
from gqasearch.searching.problem import FloatArray
from tests.searching.exact.cases import make_distances, pairwise_errors, problems

Case = tuple[FloatArray, tuple[int, int, int], np.random.Generator]


def reduced_by_hand(problem: PairwiseProblem, prices: FloatArray) -> dict[tuple[int, ...], float]:
    """Reduced cost of every group of a possible size."""
    errors = pairwise_errors(problem.excess)
    groups = (group for size in problem.sizes for group in combinations(range(problem.num_heads), size))
    return {g: float(errors[sum(1 << h for h in g)] - prices[list(g)].sum()) for g in groups}


def members(columns: FloatArray) -> list[tuple[int, ...]]:
    return [tuple(np.flatnonzero(row).tolist()) for row in columns]


@pytest.mark.parametrize("kind", [EnumeratedPricer, TreePricer])
@settings(max_examples=40)
@given(case=problems(most=9), share=st.floats(0, 1))
def test_exact_pricing_finds_every_group_below_its_threshold(kind: type[Pricer], case: Case, share: float) -> None:
    distances, limits, rng = case
    problem = PairwiseProblem.from_distances(distances, *limits)
    prices = rng.normal(size=problem.num_heads) * problem.excess.max(initial=0.0)
    by_hand = reduced_by_hand(problem, prices)
    # Halfway between two reduced costs, so that rounding cannot move a group across.
    values = np.unique(np.round(sorted(by_hand.values()), 12))
    cut = values[: 1 + int(share * len(values))][-2:].mean() + 1e-3 * problem.excess.max(initial=0.0)
    thresholds = np.full(len(problem.sizes), cut)
    below = {group for group, value in by_hand.items() if value < cut}
    near = {group for group, value in by_hand.items() if abs(value - cut) <= 1e-9 * max(1.0, abs(cut))}
    priced = kind(problem).price(prices, thresholds, math.inf, 10**6)  # type: ignore[call-arg]
    found = dict(zip(members(priced.columns), priced.reduced.tolist(), strict=True))
    assert len(found) == len(priced.columns) and priced.complete
    assert set(found) - near == below - near
    tolerance = 1e-12 * max(1.0, float(np.abs(prices).sum()), float(problem.excess.sum()))
    assert all(found[group] == pytest.approx(by_hand[group], rel=1e-9, abs=tolerance) for group in found)
    for index, size in enumerate(problem.sizes):
        least = min(value for group, value in by_hand.items() if len(group) == size)
        assert priced.least[index] <= least + tolerance
        assert priced.least[index] >= min(least, cut) - tolerance


@pytest.mark.parametrize("deadline", [-math.inf, math.inf])
def test_tree_that_is_cut_off_still_bounds(deadline: float) -> None:
    rng = np.random.default_rng(2)
    problem = PairwiseProblem.from_distances(make_distances("points", 10, rng), 3, 1, 6)
    prices = rng.random(10)
    by_hand = reduced_by_hand(problem, prices)
    priced = TreePricer(problem).price(prices, np.full(len(problem.sizes), 1e6), deadline, 5)
    assert not priced.complete
    for index, size in enumerate(problem.sizes):
        least = min(value for group, value in by_hand.items() if len(group) == size)
        assert -math.inf < priced.least[index] <= least + 1e-9


@settings(max_examples=60)
@given(case=problems(most=12))
def test_size_patterns(case: Case) -> None:
    distances, limits, rng = case
    problem = PairwiseProblem.from_distances(distances, *limits)
    patterns = SizePatterns(problem.num_heads, problem.num_groups, problem.sizes)
    prices = rng.normal(size=len(problem.sizes))
    everything = [
        sizes
        for sizes in combinations_with_replacement(problem.sizes, problem.num_groups)
        if sum(sizes) == problem.num_heads
    ]
    cost = {sizes: sum(float(prices[size - problem.sizes[0]]) for size in sizes) for sizes in everything}
    least = min(cost.values())
    value, pattern = patterns.cheapest(prices)
    assert value == pytest.approx(least) and pattern @ prices == pytest.approx(least)
    assert pattern.sum() == problem.num_groups and pattern @ np.array(problem.sizes) == problem.num_heads
    limit = float(np.median(list(cost.values()))) + 1e-9
    listed = patterns.up_to(prices, limit, 10**6, math.inf)
    assert listed is not None
    as_sizes = [tuple(np.repeat(problem.sizes, row.astype(int)).tolist()) for row in listed]
    assert sorted(as_sizes) == sorted(sizes for sizes in everything if cost[sizes] <= limit)
    assert len(everything) == 1 or patterns.up_to(prices, math.inf, len(everything) - 1, math.inf) is None
    assert patterns.up_to(prices, math.inf, 10**6, -math.inf) is None
    beside = patterns.with_size(prices)
    for index, size in enumerate(problem.sizes):
        with_it = min(value for sizes, value in cost.items() if size in sizes)
        assert beside[index] + prices[index] == pytest.approx(with_it)
    some = ListedPatterns(listed)
    assert some.cheapest(prices)[0] == pytest.approx(least) and some.allows(pattern) and patterns.allows(pattern)
    assert not some.allows(pattern + 1) and not patterns.allows(pattern + 1)
    few = some.up_to(prices, least + 1e-9, 10**6, math.inf)
    assert few is not None and (few == pattern).all(1).any()
    assert some.up_to(prices, limit, 10**6, -math.inf) is None
    beside = some.with_size(prices)
    for index, size in enumerate(problem.sizes):
        with_it = min((value for sizes, value in cost.items() if size in sizes and value <= limit), default=math.inf)
        assert beside[index] + prices[index] == pytest.approx(with_it)
    # A size of which there is no group cannot be used.
    without = np.where(pattern > 0, np.inf, prices)
    assert (some.costs(without) == np.inf).tolist() == (some.listed[:, pattern > 0] > 0).any(1).tolist()


@settings(max_examples=60)
@given(case=problems(most=12))
def test_a_split_leaves_no_side_the_mixture(case: Case) -> None:
    """Every pattern is on one side, and the mean number of groups with m heads or more is beyond either."""
    distances, limits, rng = case
    problem = PairwiseProblem.from_distances(distances, *limits)
    patterns = SizePatterns(problem.num_heads, problem.num_groups, problem.sizes)
    listed = patterns.up_to(np.zeros(len(problem.sizes)), 0.0, 10**6, math.inf)
    assert listed is not None
    shares = rng.dirichlet(np.full(len(listed), 0.3))
    few = ListedPatterns(listed).split(shares @ listed)
    if few is None:
        assert np.abs(shares @ listed - np.round(shares @ listed)).max() <= 1e-5
        return
    larger = np.cumsum(listed[:, ::-1], axis=1)
    mixture = np.cumsum((shares @ listed)[::-1])
    assert few.any() and not few.all()
    assert ((larger[few].max(0) < mixture) & (larger[~few].min(0) > mixture)).any()
    assert ListedPatterns(listed).split(listed[0]) is None


@settings(max_examples=40)
@given(case=problems(most=12))
def test_easiest_targets_keep_the_bound(case: Case) -> None:
    distances, limits, rng = case
    problem = PairwiseProblem.from_distances(distances, *limits)
    patterns = SizePatterns(problem.num_heads, problem.num_groups, problem.sizes)
    least = rng.normal(size=len(problem.sizes))
    targets = easiest_targets(problem, patterns, least)
    bound = patterns.cheapest(least)[0]
    assert (targets <= least).all()
    assert patterns.cheapest(targets)[0] == pytest.approx(bound, abs=1e-6)
    lower = easiest_targets(problem, patterns, least, enough=bound - 1)
    assert (lower <= least).all() and patterns.cheapest(lower)[0] >= bound - 1 - 1e-6


@settings(max_examples=40)
@given(case=problems(most=9))
def test_descent_ends_where_no_move_and_no_swap_helps(case: Case) -> None:
    distances, limits, rng = case
    problem = PairwiseProblem.from_distances(distances, *limits)
    starts = random_labels(problem, 5, rng)
    for labels, optimum in zip(starts, descend(problem, starts), strict=True):
        groups = groups_of(optimum)
        assert problem.check_partition(groups) == groups
        value = problem.value(groups)
        start = optimum[:0] if not len(labels) else labels[None] == np.arange(problem.num_groups)[:, None]
        assert value <= problem.costs(start.astype(float)).sum() * (1 + 1e-9)
        found = optimum.argmax(0)
        for head in range(problem.num_heads):
            changes = [np.where(np.arange(len(found)) == head, g, found) for g in range(problem.num_groups)]
            for other in range(head):
                swapped = found.copy()
                swapped[[head, other]] = found[[other, head]]
                changes.append(swapped)
            for changed in changes:
                columns = (changed == np.arange(problem.num_groups)[:, None]).astype(float)
                if all(size in problem.sizes for size in columns.sum(1)):
                    assert problem.costs(columns).sum() >= value - 1e-9 * max(value, problem.excess.max(initial=0.0))


@settings(max_examples=40)
@given(case=problems(most=9))
def test_local_pricing_ends_where_no_head_helps(case: Case) -> None:
    distances, limits, rng = case
    problem = PairwiseProblem.from_distances(distances, *limits)
    scale = float(problem.excess.max(initial=0.0)) or 1.0
    prices, by_size = scale * rng.random(problem.num_heads), scale * rng.normal(size=len(problem.sizes))
    starts = random_columns(problem, len(problem.sizes), rng)
    assert sorted(starts.sum(1)) == list(problem.sizes)
    columns, reduced = search_columns(problem, prices, by_size, starts)
    by_hand = {g: v - by_size[len(g) - problem.sizes[0]] for g, v in reduced_by_hand(problem, prices).items()}
    assert (np.diff(reduced) >= 0).all()
    for group, value in zip(members(columns), reduced.tolist(), strict=True):
        assert value == pytest.approx(by_hand[group], rel=1e-9, abs=1e-9 * scale)
        near = [other for other in by_hand if len(set(other) ^ set(group)) == 1]
        near += [o for o in by_hand if len(o) == len(group) and len(set(o) ^ set(group)) == 2]
        assert all(by_hand[other] >= value - 1e-9 * scale for other in near)


@pytest.mark.parametrize(
    ("num_heads", "sizes"), [(1, range(1, 2)), (5, range(1, 6)), (7, range(3, 5)), (6, range(6, 7))]
)
def test_every_group_is_listed_once(num_heads: int, sizes: range) -> None:
    problem = PairwiseProblem(np.zeros((num_heads, num_heads)), 0.0, 1, sizes)
    listed = members(all_columns(problem))
    expected = [group for size in sizes for group in combinations(range(num_heads), size)]
    assert listed == expected and number_of_groups(num_heads, sizes) == len(expected)


@settings(max_examples=40)
@given(case=problems(most=10), slack=st.floats(0, 1), rounds=st.sampled_from([1, 2, 60]))
def test_pool_of_all_groups_gives_the_optimum(case: Case, slack: float, rounds: int) -> None:
    """Whatever the upper bound is, with cuts as long as there are any, and by branches alone."""
    distances, limits, _ = case
    problem = PairwiseProblem.from_distances(distances, *limits)
    optimum = float(solve_subsets(pairwise_errors(problem.excess), problem.num_heads, *limits[1:]).values[limits[0]])
    scale = 1e3 / max(optimum, 1e-3 * problem.excess.max(initial=0.0), 1e-300)
    problem = PairwiseProblem(problem.excess * scale, 0.0, limits[0], problem.sizes)
    optimum *= scale
    patterns = SizePatterns(problem.num_heads, problem.num_groups, problem.sizes)
    listed = patterns.up_to(np.zeros(len(problem.sizes)), 0.0, 10**6, math.inf)
    assert listed is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closing, "ROOT_ROUNDS", rounds)
        patch.setattr(closing, "ROUNDS", min(rounds, closing.ROUNDS))
        pool = Pool(problem, all_columns(problem), listed, optimum + 1e-3 + 100 * slack, math.inf)
        chosen = pool.solve()
    assert chosen is not None and problem.check_partition(groups_of(chosen))
    assert problem.costs(chosen).sum() == pytest.approx(optimum, rel=1e-9, abs=1e-6)
    assert pool.lower == pytest.approx(optimum, rel=1e-9, abs=1e-6)


def test_pool_without_time_claims_nothing() -> None:
    problem = PairwiseProblem.from_distances(make_distances("points", 9, np.random.default_rng(0)), 3, 1, 9)
    patterns = SizePatterns(9, 3, problem.sizes).up_to(np.zeros(len(problem.sizes)), 0.0, 10**6, math.inf)
    assert patterns is not None
    pool = Pool(problem, all_columns(problem), patterns, 1e6, -math.inf)
    assert pool.solve() is None and pool.lower == -math.inf


def test_cuts_hold_in_every_partition_and_cut_off_what_they_should() -> None:
    """Three pairs of three heads at half each cover every head once, and are no partition."""
    columns = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]], dtype=float)
    cuts = violated_cuts(columns, np.array([0.5, 0.5, 0.5, 1.0]))
    assert cuts.tolist() == [[0, 1, 2]]
    assert cut_hits(columns, cuts).tolist() == [[1], [1], [1], [0]]
    rng = np.random.default_rng(0)
    problem = PairwiseProblem.from_distances(make_distances("points", 9, rng), 3, 1, 9)
    every_cut = np.array(list(combinations(range(9), 3)))
    for optimum in descend(problem, random_labels(problem, 10, rng)):
        assert not len(violated_cuts(optimum, np.ones(3)))
        assert cut_hits(optimum, every_cut).sum(0).max() == 1
