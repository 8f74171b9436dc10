"""Staged evolution: its starts, its stages, its budget, and that it finds what counting out finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.searching import Generation, Problem, SetErrors, available_methods, make_method
from gqasearch.searching.operators import count_range
from gqasearch.searching.problem import FloatArray
from gqasearch.searching.record import Individual
from gqasearch.searching.runner import run_search
from gqasearch.searching.staged import Staged
from gqasearch.searching.staged.staged_run import StagedRun
from tests.matrix import sampled
from tests.searching.problems import Pairwise, SetFunction, budgets, one_by_one, partitions_within, seeds
from tests.searching.test_resume import check_every_cut
from tests.searching.text_problems import BATCH_TOKENS, NoisyText, text_problem, weighted_sum

# Three stages of the text's 700 tokens: 50, 150 and 450; then all.
SMALL: dict[str, Any] = {"population": 3, "offspring": 8, "generations": 5, "first_tokens": 50, "reduction": 3}


def run(problem: Problem, seed: int = 0, **parameters: Any) -> list[Generation]:
    return list(run_search(make_method("staged", parameters), problem, np.random.default_rng(seed)))


def populations(problem: Problem, **parameters: Any) -> list[list[Individual]]:
    """The survivors of every generation."""
    under_way = StagedRun(Staged(**parameters), problem, np.random.default_rng(0))
    return [list(under_way.population) for _ in under_way.generations()]


def three_layers(seed: int = 0, *, movable: bool = True, noise: float = 0.05) -> tuple[Problem, NoisyText]:
    functions = [Pairwise(5, 10 * seed + layer) for layer in range(3)]
    return text_problem(functions, (1.0, 4.0, 2.0), Budget((2, 3, 2), 5, movable=movable), noise=noise)


# The budget


def fits_budget(grouping: Grouping, budget: Budget, free: bool) -> bool:
    low, high = count_range(budget)
    if any(count % budget.count_step for count in grouping.group_counts):
        return False
    sizes = all(budget.smallest_group <= size <= budget.largest for layer in grouping for size in layer.sizes)
    if free:
        return sizes and all(low <= count <= high for count in grouping.group_counts)
    if budget.movable:
        return sizes and grouping.kv_heads_total == budget.total
    return sizes and grouping.group_counts == budget.counts


@settings(max_examples=25)
@given(
    budgets(max_heads=5, max_layers=3), st.sampled_from(["fixed", "movable", "free"]), st.sampled_from([0, 2]), seeds
)
def test_every_candidate_keeps_the_budget(budget: Budget, kind: str, levels: int, seed: int) -> None:
    budget = replace(budget, movable=kind == "movable")
    functions = [Pairwise(budget.num_heads, seed + layer) for layer in range(len(budget.counts))]
    problem, text = text_problem(functions, [1.0] * len(functions), budget, free=kind == "free")
    generations = run(problem, seed, **SMALL, sensitivity_levels=levels)
    assert all(fits_budget(grouping, budget, kind == "free") for grouping in text.whole)
    stages = [grouping for groupings, _ in text.calls for grouping in groupings]
    if levels == 0:
        assert all(fits_budget(grouping, budget, kind == "free") for grouping in stages)
    assert [generation.index for generation in generations] == list(range(len(generations)))
    assert len(generations) <= SMALL["generations"] + 1


# What it finds


def counted_out(problem: Problem, text: NoisyText) -> float:
    """The lowest true value of all groupings of two layers within a movable budget."""
    budget = problem.budget
    low, high = count_range(budget)
    pairs = [(a, budget.total - a) for a in range(low, high + 1) if low <= budget.total - a <= high]
    tables = {count: partitions_within(budget, count) for pair in pairs for count in pair}
    groupings = [Grouping(layers) for pair in pairs for layers in product(*(tables[count] for count in pair))]
    return float(np.min(text.true(groupings)))


@pytest.mark.parametrize(
    ("kind", "noise"), sampled([(Pairwise, 0.0), (Pairwise, 0.2), (SetFunction, 0.1)], [(Pairwise, 0.2)])
)
def test_finds_the_optimum_that_the_guide_does_not_know(kind: type[SetFunction], noise: float) -> None:
    """The objective is other set functions than the guide's, on noisy text."""
    hits = 0
    for seed in range(6):
        budget = Budget((2, 3), 5, movable=True, largest_group=4)
        true = weighted_sum([kind(5, 50 + seed), kind(5, 60 + seed)], (1.0, 3.0))
        text = NoisyText(true, noise)
        guide = tuple(SetErrors(5, one_by_one(kind(5, 70 + seed + layer).error)) for layer in range(2))
        problem = Problem({"loss": text.objective}, budget, guide=guide, partial=text)
        best = run(problem, seed, first_tokens=100, reduction=2, offspring=16)[-1].best
        assert best.values[0] == true([best.grouping])[0]
        hits += best.values[0] <= counted_out(problem, text) + 1e-12
    assert hits >= 5


@given(seeds)
@settings(max_examples=8)
def test_is_never_worse_than_what_the_guide_proposes(seed: int) -> None:
    """Even and exact split of the guide's best partitions, counted out."""
    functions = [Pairwise(5, seed + layer) for layer in range(3)]
    budget = Budget((2, 3, 2), 5, movable=True)
    problem, text = text_problem(functions, (1.0, 4.0, 2.0), budget)
    generations = run(problem, seed, **SMALL)
    best_of = [{count: min(partitions_within(budget, count), key=f.of) for count in range(1, 6)} for f in functions]
    splits = [counts for counts in product(range(1, 6), repeat=3) if sum(counts) == 7]

    def grouping(counts: Sequence[int]) -> Grouping:
        return Grouping(tuple(table[count] for table, count in zip(best_of, counts, strict=True)))

    exact = min(map(grouping, splits), key=lambda g: weighted_sum(functions, (1.0,) * 3)([g])[0])
    only, before = text_problem(functions, (1.0, 4.0, 2.0), budget)
    run(only, seed, **{**SMALL, "generations": 0})
    starts = before.whole
    assert text.whole[: len(starts)] == starts
    assert grouping(budget.counts) in starts and exact in starts
    values = [generation.best.values[0] for generation in generations]
    assert values == sorted(values, reverse=True)
    assert values[0] == min(text.true(starts)) <= min(text.true([grouping(budget.counts), exact]))


def test_a_front_is_of_values_on_the_whole_text_and_none_dominates_another() -> None:
    functions = [Pairwise(5, layer) for layer in range(2)]
    problem, text = text_problem(functions, (1.0, 3.0), Budget((2, 3), 5), free=True, noise=0.3)
    last = run(problem, 0, population=8, offspring=24, generations=30, first_tokens=100)[-1]
    for candidate in last.front:
        assert candidate.grouping in text.whole
        assert candidate.values == (text.true([candidate.grouping])[0], candidate.grouping.kv_heads_total)
    rows = sorted((candidate.values[1], candidate.values[0]) for candidate in last.front)
    assert {2, 10} <= {row[0] for row in rows} and len(rows) >= 7  # of 9 numbers of groups
    assert all(one[1] > two[1] for one, two in pairwise(rows))


def test_a_front_has_more_survivors_than_one_objective() -> None:
    for free, most in ((False, 4), (True, 24)):
        functions = [Pairwise(6, layer) for layer in range(2)]
        problem, _ = text_problem(functions, (1.0, 3.0), Budget((2, 3), 6, movable=not free), free=free, noise=0.3)
        assert len(populations(problem, generations=8, first_tokens=100)[-1]) == most
    assert len(populations(problem, generations=2, population=3)[-1]) == 3


def test_ends_when_everything_was_met() -> None:
    problem, text = text_problem([Pairwise(4, 0)], (1.0,), Budget((2,), 4))
    generations = run(problem, patience=8, first_tokens=100)
    asked = {*text.whole, *(grouping for groupings, _ in text.calls for grouping in groupings)}
    assert len(asked) == len(partitions_within(problem.budget, 2)) == generations[-1].evaluations


# Stages


def test_stages_are_as_documented() -> None:
    """8 children on 50 tokens or more, 3 on 150, all of one stage on the same batches; the best on the whole text."""
    problem, text = three_layers(noise=0.5)
    generations = run(problem, **SMALL, sensitivity_levels=0)
    before = generations[0].evaluations
    assert len(text.calls) % 2 == 0 and len(generations) == 6
    orders = []
    for generation, (first, second) in enumerate(zip(text.calls[::2], text.calls[1::2], strict=True)):
        assert [len(groupings) for groupings, _ in (first, second)] == [8, 3]
        assert set(second[0]) == set(sorted(first[0], key=lambda g: text.on(g, first[1]))[:3])
        for tokens, (_, batches) in ((50, first), (150, second)):
            held = [BATCH_TOKENS[batch] for batch in batches]
            assert sum(held[:-1]) < tokens <= sum(held)
        assert second[1][: len(first[1])] == first[1]
        (winner,) = text.whole[before + generation : before + generation + 1]
        assert winner == min(second[0], key=lambda g: text.on(g, second[1]))
        orders.append(tuple(second[1]))
    assert len(text.whole) == before + 5
    assert len(set(orders)) > 1, "every generation draws its text anew"


def test_survivors_are_the_best_on_the_whole_text_parents_among_them() -> None:
    problem, text = three_layers()
    under_way = StagedRun(Staged(**SMALL), problem, np.random.default_rng(0))
    for _ in under_way.generations():
        survivors = [individual.grouping for individual in under_way.population]
        assert sorted(text.true(survivors)) == sorted(text.true(text.whole))[:3]


def test_three_stages_where_children_are_many() -> None:
    problem, text = three_layers()
    run(problem, **{**SMALL, "offspring": 30, "generations": 1}, sensitivity_levels=0)
    assert [len(groupings) for groupings, _ in text.calls] == [30, 10, 4]  # 50, 150, 450 tokens
    assert len({len(batches) for _, batches in text.calls}) == 3


def test_a_stage_with_no_more_text_than_the_one_before_is_left_out() -> None:
    """A batch is the least there is: 1, 2, ..., 32 tokens are all the first batch."""
    problem, text = three_layers()
    run(problem, **{**SMALL, "generations": 1, "first_tokens": 1, "reduction": 2}, sensitivity_levels=0)
    sizes = [len(batches) for _, batches in text.calls]
    assert sizes == sorted(set(sizes)) and sizes[0] == 1 and sizes[-1] < len(BATCH_TOKENS)


@pytest.mark.parametrize("first_tokens", [650, 700, 5000])
def test_there_is_no_stage_of_the_whole_text_but_the_last(first_tokens: int) -> None:
    """650 of the 700 tokens need all batches, whatever their order, or all but the smallest."""
    problem, text = three_layers()
    generations = run(problem, **{**SMALL, "first_tokens": first_tokens}, sensitivity_levels=0)
    assert all(len(batches) < len(BATCH_TOKENS) for _, batches in text.calls)
    assert len(text.whole) > generations[0].evaluations
    if first_tokens >= 700:
        assert not text.calls and len(text.whole) == generations[0].evaluations + 5 * 8


@given(st.booleans(), seeds)
@settings(max_examples=8)
def test_nothing_is_measured_twice(free: bool, seed: int) -> None:
    functions = [Pairwise(4, seed + layer) for layer in range(2)]
    problem, text = text_problem(functions, (1.0, 2.0), Budget((2, 2), 4, movable=not free), free=free)
    last = run(problem, seed, **{**SMALL, "generations": 12}, sensitivity_levels=0)[-1]
    assert len(text.whole) == len(set(text.whole))
    on_parts = [{*groupings} for groupings, batches in text.calls if len(batches) <= 1]
    assert sum(map(len, on_parts)) == len(set().union(*on_parts)), "a child was bred twice"
    asked = {*text.whole, *(grouping for groupings, _ in text.calls for grouping in groupings)}
    assert last.evaluations == len(asked)


# Sensitivity


def test_the_planted_layer_gets_its_groups_at_the_start() -> None:
    """All of the damage is in layer 1: generation 0 knows it from the measured sensitivity, and not without."""
    functions = [Pairwise(6, layer) for layer in range(3)]
    starts = {}
    for levels in (0, 3):
        problem, text = text_problem(functions, (0.01, 1.0, 0.01), Budget((3, 3, 3), 6, movable=True), noise=0.0)
        generation = run(problem, generations=0, sensitivity_levels=levels, first_tokens=100)[0]
        starts[levels] = generation.best
        assert generation.evaluations == len(text.whole) + (1 + 3 * levels if levels else 0)
    assert starts[3].grouping.group_counts[1] == 6
    assert starts[3].values[0] < 0.5 * starts[0].values[0]


# Going on, stopping, refusing


@pytest.mark.parametrize("kind", ["fixed", "movable", "free"])
def test_resumed_search_equals_the_uninterrupted_one(kind: str) -> None:
    def problem() -> Problem:
        functions = [Pairwise(5, layer) for layer in range(3)]
        budget = Budget((2, 3, 2), 5, movable=kind == "movable")
        return text_problem(functions, (1.0, 4.0, 2.0), budget, free=kind == "free")[0]

    check_every_cut(make_method("staged", SMALL), problem)
    check_every_cut(make_method("staged", {**SMALL, "generations": 20, "patience": 3}), problem)


def test_a_limit_of_seconds_ends_the_search_after_the_generation_under_way() -> None:
    problem, _ = three_layers()
    (only,) = run(problem, max_seconds=0)
    assert only.index == 0
    assert len(run(problem, **SMALL, max_seconds=1000)) == 6


def test_values_that_are_no_numbers_are_refused_on_part_of_the_text_too() -> None:
    problem, text = three_layers()

    def bad(groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        return np.full(len(groupings), np.nan)

    text.evaluate_batches = bad  # type: ignore[method-assign]
    for levels in (0, 2):
        with pytest.raises(UserError, match="objective 'loss' gave nan for grouping"):
            run(problem, **SMALL, sensitivity_levels=levels)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"population": 0}, "staged: population must be a number of at least 1, got 0"),
        ({"reduction": 1}, "reduction must be a number of at least 2"),
        ({"first_tokens": 0}, "first_tokens must be a number of at least 1"),
        ({"crossover_rate": 1.5}, "crossover_rate is a chance, at most 1"),
        ({"switch": float("nan")}, "switch: must be a finite number, got nan"),
        ({"swap": 0, "merge_split": 0}, "cannot both be 0"),
        ({"max_seconds": -1}, "max_seconds must be a number of at least 0"),
        ({"generation": 5}, "did you mean 'generations'"),
    ],
)
def test_bad_parameters_are_named(parameters: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_method("staged", parameters)


def test_an_objective_that_does_not_run_the_model_is_refused() -> None:
    problem, _ = three_layers()
    with pytest.raises(UserError, match=r"objective that runs the model \(kl, healed-kl, perplexity\), got loss"):
        run(replace(problem, partial=None))
    with pytest.raises(UserError, match="method staged needs the guide"):
        run(replace(problem, guide=None))
    assert "staged" in available_methods()
