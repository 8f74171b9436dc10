"""Column generation against dynamic programming over subsets, and its promises when time runs out."""

from __future__ import annotations

import itertools
import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gqasearch.errors import UserError
from gqasearch.grouping import LayerGrouping
from gqasearch.searching.exact import branch, column_generation, pricing
from gqasearch.searching.exact.certificate import Certificate
from gqasearch.searching.exact.column_generation import solve_pairwise
from gqasearch.searching.exact.multi_start import Labels
from gqasearch.searching.exact.pairwise_problem import Columns, PairwiseProblem
from gqasearch.searching.exact.subset_dp import solve_subsets
from gqasearch.searching.problem import FloatArray
from tests.matrix import examples, sampled, thinned
from tests.searching.exact.cases import KINDS, make_distances, pairwise_errors, problems, random_limits
from tests.searching.problems import Pairwise

Limits = tuple[int, int, int]


def check(distances: FloatArray, limits: Limits, certificate: Certificate) -> float:
    """A feasible partition, its value recomputed, a valid bound; returns the optimum."""
    num_groups, smallest, largest = limits
    layer = LayerGrouping(certificate.groups)
    assert layer.num_heads == len(distances) and layer.num_groups == num_groups
    assert all(smallest <= size <= largest for size in layer.sizes)
    value = sum(distances[np.ix_(group, group)].sum() / (2 * len(group)) for group in layer.groups)
    assert certificate.value == pytest.approx(value, rel=1e-12, abs=0)
    optimum = solve_subsets(pairwise_errors(distances), len(distances), smallest, largest).values[num_groups]
    # Both sides are sums in float64.
    assert certificate.lower_bound <= optimum * (1 + 1e-12)
    assert certificate.value >= optimum * (1 - 1e-12)
    return float(optimum)


def keep_starts(problem: PairwiseProblem, starts: Labels, deadline: float = np.inf) -> Columns:
    """In the place of the descent: partitions as they are."""
    return np.asarray(starts[:, None, :] == np.arange(problem.num_groups)[None, :, None], dtype=np.float64)


@pytest.mark.parametrize(("kind", "sizes", "branch_and_bound"), thinned(KINDS, range(3), [False, True]))
def test_optimum_is_that_of_subset_dp(
    kind: str, sizes: int, branch_and_bound: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any sizes, of equal ones and of bounded ones; 72 times 8 cases in `make test-all`."""
    if branch_and_bound:
        monkeypatch.setattr(pricing, "ENUMERATION_LIMIT", 0)
    rng = np.random.default_rng([KINDS.index(kind), sizes, branch_and_bound])
    for num_heads in (2, 3, 5, 7, 8, 9, 10, 10):
        distances = make_distances(kind, num_heads, rng)
        limits = random_limits(num_heads, sizes, rng)
        certificate = solve_pairwise(distances, *limits, rng=rng)
        optimum = check(distances, limits, certificate)
        assert certificate.proven and certificate.gap <= 1e-9
        assert certificate.value == pytest.approx(optimum, rel=1e-9, abs=0)


@settings(max_examples=examples(60))
@given(problems(most=12), st.booleans())
def test_optimum_on_anything(problem: tuple[FloatArray, Limits, np.random.Generator], branch_and_bound: bool) -> None:
    distances, limits, rng = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pricing, "ENUMERATION_LIMIT", 0 if branch_and_bound else 10**6)
        certificate = solve_pairwise(distances, *limits, rng=rng)
    assert certificate.proven
    assert certificate.value == pytest.approx(check(distances, limits, certificate), rel=1e-9, abs=0)


@pytest.mark.parametrize(
    ("kind", "limits"),
    thinned(["points", "clusters", "additive", "any", "ties"], [(7, 2, 2), (4, 1, 7), (5, 2, 6), (2, 1, 14)]),
)
def test_fourteen_heads_by_branch_and_bound(kind: str, limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "ENUMERATION_LIMIT", 0)
    rng = np.random.default_rng([KINDS.index(kind), *limits])
    distances = make_distances(kind, 14, rng)
    certificate = solve_pairwise(distances, *limits, rng=rng)
    assert certificate.proven
    assert certificate.value == pytest.approx(check(distances, limits, certificate), rel=1e-9)


@settings(max_examples=examples(60))
@given(problems(most=10), st.booleans(), st.sampled_from([1, 10**6]))
def test_optimum_by_parts_of_the_size_patterns(
    problem: tuple[FloatArray, Limits, np.random.Generator], branch_and_bound: bool, last_pool: int
) -> None:
    """No pool until the patterns are split as far as they can be, or none at all: then gaps may stay."""
    distances, limits, rng = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pricing, "ENUMERATION_LIMIT", 0 if branch_and_bound else 10**6)
        patch.setattr(column_generation, "POOL_LIMIT", 1)
        patch.setattr(column_generation, "LAST_POOL_LIMIT", last_pool)
        # The first partition found is kept: a gap is left to the branches.
        for module in (branch, column_generation):
            patch.setattr(module, "descend", keep_starts)
            patch.setattr(module, "STARTS", 2)
        certificate = solve_pairwise(distances, *limits, rng=rng)
    optimum = check(distances, limits, certificate)
    assert certificate.proven or last_pool == 1
    if certificate.proven:
        assert certificate.value == pytest.approx(optimum, rel=1e-9, abs=0)


@settings(max_examples=examples(60))
@given(problems(most=10), st.sampled_from([0.0, 0.002, 0.01]))
def test_bound_holds_when_time_runs_out(
    problem: tuple[FloatArray, Limits, np.random.Generator], time_limit: float
) -> None:
    distances, limits, rng = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pricing, "ENUMERATION_LIMIT", 0)
        certificate = solve_pairwise(distances, *limits, time_limit=time_limit, rng=rng)
    optimum = check(distances, limits, certificate)
    least = distances[~np.eye(len(distances), dtype=bool)].min(initial=np.inf)
    if len(distances) > 1:
        # Every group costs at least what it would with all distances equal to the smallest.
        assert certificate.lower_bound >= (len(distances) - limits[0]) / 2 * least * (1 - 1e-12)
    assert certificate.proven is (certificate.gap <= 1e-9)
    if certificate.proven:
        assert certificate.value == pytest.approx(optimum, rel=1e-9, abs=0)


@pytest.mark.parametrize(
    ("kind", "pool_limit"), sampled(product(["points", "additive"], [50, 10**6]), [("additive", 50)])
)
def test_every_phase_looks_at_the_clock(kind: str, pool_limit: int) -> None:
    """Time runs out at any look at the clock; after that come few more, and the bound holds."""
    distances, limits = make_distances(kind, 12, np.random.default_rng(5)), (4, 1, 6)
    limit, finished = 1, False
    while not finished:
        clock = itertools.count(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pricing, "ENUMERATION_LIMIT", 0)
            patch.setattr(column_generation, "POOL_LIMIT", pool_limit)
            patch.setattr(time, "monotonic", lambda clock=clock: float(next(clock)))
            certificate = solve_pairwise(distances, *limits, time_limit=limit, rng=np.random.default_rng(0))
        looks = next(clock) - 1
        check(distances, limits, certificate)
        finished = looks < limit
        # A phase ends, the sizes left to price each look once, twice over, and those that called it look again.
        assert looks <= limit + 2 * limits[2] + 10
        limit += 1 + limit // 4
    assert certificate.proven


@settings(max_examples=examples(25))
@given(problems(most=9))
def test_names_of_heads_do_not_matter(problem: tuple[FloatArray, Limits, np.random.Generator]) -> None:
    distances, limits, rng = problem
    order = rng.permutation(len(distances))
    one = solve_pairwise(distances, *limits, rng=rng)
    two = solve_pairwise(distances[np.ix_(order, order)], *limits, rng=rng)
    assert one.value == pytest.approx(two.value, rel=1e-9, abs=0)


def test_same_generator_gives_the_same_answer() -> None:
    distances = make_distances("ties", 12, np.random.default_rng(1))
    one, two = (solve_pairwise(distances, 4, rng=np.random.default_rng(7)) for _ in range(2))
    assert (one.groups, one.value, one.lower_bound) == (two.groups, two.value, two.lower_bound)


def test_start_is_used_when_there_is_no_time_to_search() -> None:
    distances = Pairwise(12, 3).distances
    best = solve_pairwise(distances, 4, rng=np.random.default_rng(0))
    given_start = tuple(reversed([tuple(reversed(group)) for group in best.groups]))
    again = solve_pairwise(distances, 4, start=given_start, time_limit=0.0, rng=np.random.default_rng(0))
    assert again.groups == best.groups and again.value == best.value


def test_caller_keeps_his_matrix() -> None:
    distances = Pairwise(8, 3).distances
    copy = distances.copy()
    solve_pairwise(distances, 3, rng=np.random.default_rng(0))
    assert (distances == copy).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_groups": 0}, r"number of groups must be in 1\.\.6, got 0"),
        ({"num_groups": 7}, r"number of groups must be in 1\.\.6, got 7"),
        ({"num_groups": 2, "largest": 2}, "6 heads cannot be split into 2 groups of 1 to 2 heads"),
        ({"num_groups": 4, "smallest": 2}, "6 heads cannot be split into 4 groups of 2 to 6 heads"),
        ({"num_groups": 2, "smallest": 4, "largest": 3}, "1 <= smallest <= largest <= 6, got 4 and 3"),
        ({"num_groups": 2, "largest": 7}, "1 <= smallest <= largest <= 6, got 1 and 7"),
        ({"num_groups": 2, "start": ((0, 1), (2, 3, 4))}, r"start: heads \[5\] stand in no group"),
        ({"num_groups": 2, "start": ((0, 1), (2, 3), (4, 5))}, r"start: 2 groups .* got sizes \(2, 2, 2\)"),
    ],
)
def test_impossible_limits_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        solve_pairwise(Pairwise(6, 0).distances, rng=np.random.default_rng(0), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0, 1, np.nan), "finite and not negative"),
        ((0, 1, -1.0), "finite and not negative"),
        ((1, 1, 0.5), "0 on the diagonal"),
        ((0, 1, 99.0), "symmetric"),
    ],
)
def test_tables_that_are_no_distances_are_refused(change: tuple[int, int, float], message: str) -> None:
    distances = Pairwise(6, 0).distances
    distances[change[0], change[1]] = change[2]
    with pytest.raises(UserError, match=message):
        solve_pairwise(distances, 2, rng=np.random.default_rng(0))
    with pytest.raises(UserError, match=r"square matrix, got shape \(2, 3\)"):
        solve_pairwise(np.zeros((2, 3)), 1, rng=np.random.default_rng(0))
