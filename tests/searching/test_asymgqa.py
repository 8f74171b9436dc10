"""AsymGQA: what it proposes, what it accepts, what it evaluates, and the budget and resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.pairwise import FloatArray
from gqasearch.searching import Generation, Problem
from gqasearch.searching.operators import exchange, random_partition, relocate
from gqasearch.searching.papers.asymgqa import AsymGQA, _checked, _Walks, propose
from gqasearch.searching.runner import run_search
from tests.searching.problems import Entangled, Pairwise, budgets, kv_heads, partitions_within, seeds
from tests.searching.test_resume import check_every_cut

SIZES = (3, 5, 7, 2)  # groups of four layers of seven heads; the third has one partition only


def similarity(num_layers: int, num_heads: int, seed: int) -> FloatArray:
    drawn = np.random.default_rng(seed).normal(size=(num_layers, num_heads, num_heads))
    return drawn + drawn.transpose(0, 2, 1)


def entangled(counts: tuple[int, ...] = SIZES, num_heads: int = 7, **bounds: Any) -> tuple[Problem, Entangled]:
    objective = Entangled(len(counts), num_heads, 0)
    budget = Budget(counts, num_heads, **bounds)
    return Problem({"error": objective}, budget, similarity=similarity(len(counts), num_heads, 0)), objective


def run(method: AsymGQA, problem: Problem, seed: int = 0) -> list[Generation]:
    return list(run_search(method, problem, np.random.default_rng(seed)))


def allowed(
    layer: LayerGrouping, near: FloatArray, method: AsymGQA, budget: Budget
) -> tuple[set[LayerGrouping], set[LayerGrouping]]:
    """Every swap, and every move, to one of the k most similar heads outside of a head's group."""
    swaps, moves = set(), set()
    for head, label in enumerate(layer.labels):
        outside = [other for other in range(layer.num_heads) if layer.labels[other] != label]
        for other in sorted(outside, key=lambda o: (-near[head, o], o))[: method.neighbours]:
            taker = layer.labels[other]
            swaps.add(exchange(layer, head, other))
            if layer.sizes[label] > budget.smallest_group and layer.sizes[taker] < budget.largest:
                moves.add(relocate(layer, head, taker))
    return swaps, moves


# Proposals


@given(budgets(max_heads=7), st.integers(1, 3), st.booleans(), seeds)
def test_proposals_reach_the_most_similar_heads_and_no_other(
    budget: Budget, neighbours: int, asymmetric: bool, seed: int
) -> None:
    count, rng = budget.counts[0], np.random.default_rng(seed)
    if count == 1:
        return
    near = similarity(1, budget.num_heads, seed)
    method = AsymGQA(neighbours=neighbours, asymmetric=asymmetric)
    layer = random_partition(count, budget, rng)
    swaps, moves = allowed(layer, near[0], method, budget)
    problem = Problem({}, budget, similarity=near)
    proposed = {propose(layer, near[0], method, problem, rng) for _ in range(30)}
    assert proposed <= (swaps | moves if asymmetric else swaps)
    for other in proposed:
        assert other.num_groups == count
        assert all(budget.smallest_group <= size <= budget.largest for size in other.sizes)


def test_all_allowed_proposals_are_made() -> None:
    layer, near = LayerGrouping.from_labels([0, 0, 0, 1, 1, 2]), similarity(1, 6, 1)
    problem, rng = Problem({}, Budget((3,), 6, largest_group=3)), np.random.default_rng(0)
    for method in (AsymGQA(neighbours=2), AsymGQA(neighbours=2, asymmetric=False)):
        swaps, moves = allowed(layer, near[0], method, problem.budget)
        assert moves - swaps
        made = {propose(layer, near[0], method, problem, rng) for _ in range(600)}
        assert made == (swaps | moves if method.asymmetric else swaps)


# Walks


def walk_of(problem: Problem, method: AsymGQA) -> list[tuple[LayerGrouping, float]]:
    """Where the walk of the last layer stood after each step."""
    under_way = _Walks(method, problem, _checked(problem), np.random.default_rng(0))
    before = problem.num_layers - 1
    here = [(under_way.layer, under_way.here) for one in under_way.generations() if one.index]
    steps = [at for layer, at in here if layer == before]
    return steps[1:] if before else steps  # the end of the walk before it is not one of its own


def differ_by_one_step(first: LayerGrouping, second: LayerGrouping, near: FloatArray, budget: Budget) -> bool:
    swaps, moves = allowed(first, near, AsymGQA(), budget)
    return second in swaps | moves


def test_without_acceptance_the_walk_only_goes_down() -> None:
    problem, _ = entangled((3,))
    walk = walk_of(problem, AsymGQA(iterations=60, reset_rate=0, accept_rate=0))
    scores = [score for _, score in walk]
    assert len(walk) == 61 and scores == sorted(scores, reverse=True) and scores[-1] < scores[0]
    assert all(before == after or (after[1] < before[1]) for before, after in pairwise(walk))


@pytest.mark.parametrize("counts", [(3,), (7, 3)])
def test_with_certain_acceptance_every_proposal_is_taken(counts: tuple[int, ...]) -> None:
    problem, objective = entangled(counts)
    assert problem.similarity is not None
    walk = walk_of(problem, AsymGQA(iterations=60, reset_rate=0, accept_rate=1))
    scores = [score for _, score in walk]
    assert scores != sorted(scores, reverse=True)
    earlier = [LayerGrouping.singletons(7)] * (len(counts) - 1)
    for (before, _), (after, score) in pairwise(walk):
        assert differ_by_one_step(before, after, problem.similarity[-1], problem.budget)
        assert score == objective([Grouping((*earlier, after))])[0]


def test_with_certain_resets_every_step_is_a_new_random_partition() -> None:
    problem, _ = entangled((3,))
    assert problem.similarity is not None
    walk = [layer for layer, _ in walk_of(problem, AsymGQA(iterations=60, reset_rate=1))]
    near, budget = problem.similarity[0], problem.budget
    steps = [differ_by_one_step(a, b, near, budget) for a, b in pairwise(walk)]
    assert sum(steps) < 20 and len(set(walk)) > 30
    twice = [layer for layer, _ in walk_of(problem, AsymGQA(iterations=60, reset_rate=1, accept_rate=1))]
    assert twice == walk


def test_the_best_partition_met_is_kept_though_the_walk_leaves_it() -> None:
    problem, objective = entangled((3,))
    walk = walk_of(problem, method := AsymGQA(iterations=40, reset_rate=0.2, accept_rate=1))
    best = min(score for _, score in walk)
    assert walk[-1][1] > best
    neighbours = objective([Grouping((LayerGrouping.neighbours(7, 3),))])[0]
    assert run(method, problem)[-1].best.values == (min(best, neighbours),)


def test_few_heads_are_solved() -> None:
    objective = Pairwise(6, 1)
    problem = Problem({"error": objective}, Budget((3,), 6), similarity=-objective.distances[None])
    last = run(AsymGQA(iterations=300), problem)[-1]
    assert last.best.values[0] == min(map(objective.of, partitions_within(problem.budget, 3)))


# Layer by layer


class Log:
    """Keeps what was asked, in order, one call after the other."""

    def __init__(self, objective: Entangled) -> None:
        self.objective = objective
        self.asked: list[Grouping] = []

    def __call__(self, groupings: Sequence[Grouping]) -> FloatArray:
        self.asked += groupings
        return self.objective(groupings)


@pytest.mark.parametrize("asymmetric", [True, False])
def test_earlier_layers_stay_and_later_ones_are_mha(asymmetric: bool) -> None:
    problem, objective = entangled()
    log = Log(objective)
    problem = replace(problem, objectives={"error": log})
    under_way = _Walks(AsymGQA(asymmetric=asymmetric), problem, _checked(problem), np.random.default_rng(0))
    assert list(under_way.generations())
    found = Grouping(tuple(under_way.found))
    neighbours = [LayerGrouping.neighbours(7, count) for count in SIZES]
    singletons = LayerGrouping.singletons(7)
    displays = {Grouping((*found.layers[:layer], *neighbours[layer:])) for layer in range(5)}
    walks: dict[int, list[LayerGrouping]] = {layer: [] for layer in range(4)}
    for asked in log.asked:
        if asked not in displays:
            layer = max((i for i, part in enumerate(asked) if part != singletons), default=0)
            # The third layer has no choice; the last one comes after it.
            assert asked.layers[:layer] == found.layers[:layer]
            assert all(part == singletons for part in asked.layers[layer + 1 :])
            walks[layer].append(asked.layers[layer])
    assert [bool(walk) for walk in walks.values()] == [True, True, False, True]
    for layer in (0, 1):
        behind = (singletons,) * (3 - layer)
        scores = {part: objective([Grouping((*found.layers[:layer], part, *behind))])[0] for part in walks[layer]}
        assert found.layers[layer] == min(scores, key=lambda part: scores[part])
    if not asymmetric:
        assert all(max(part.sizes) - min(part.sizes) <= 1 for walk in walks.values() for part in walk)


def test_evaluations_are_counted_and_none_is_made_twice() -> None:
    problem, objective = entangled()
    for generation in run_search(AsymGQA(), problem, np.random.default_rng(2)):
        assert generation.evaluations == len(objective.asked) == len(set(objective.asked))
    # Three layers to walk in, the start and the end of four.
    assert 20 < generation.evaluations <= 3 * 11 + 5


def test_every_best_was_evaluated_and_keeps_the_budget() -> None:
    problem, objective = entangled()
    generations = run(AsymGQA(iterations=20), problem)
    assert [generation.index for generation in generations] == list(range(len(generations)))
    values = [generation.best.values[0] for generation in generations]
    assert values == sorted(values, reverse=True) and values[-1] < values[0]
    for generation in generations:
        assert generation.best.grouping.group_counts == SIZES
        assert generation.best.grouping in objective.asked
        assert generation.front == (generation.best,)
    whole = [asked for asked in objective.asked if asked.group_counts == SIZES]
    assert values[-1] == min(Entangled(4, 7, 0)(whole))


def test_the_best_of_one_layer_is_the_best_evaluated_so_far() -> None:
    problem, objective = entangled((3,))
    for generation in run_search(AsymGQA(), problem, np.random.default_rng(0)):
        assert generation.best.values[0] == min(Entangled(1, 7, 0)(objective.asked))


@given(seeds)
def test_equal_sizes_stay_equal(seed: int) -> None:
    problem, objective = entangled((3, 3), num_heads=6, smallest_group=2, largest_group=2)
    run(AsymGQA(iterations=6), problem, seed)
    singletons = LayerGrouping.singletons(6)
    assert all(part == singletons or part.sizes == (2, 2, 2) for asked in objective.asked for part in asked)


def test_a_movable_budget_keeps_its_counts() -> None:
    problem, objective = entangled((2, 5), movable=True)
    run(AsymGQA(), problem)
    assert {part.num_groups for asked in objective.asked for part in asked} == {2, 5, 7}


# Resume and refusals


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("counts", [SIZES, (3,), (1, 7), (7, 1)])
def test_resumed_search_equals_the_uninterrupted_one(counts: tuple[int, ...], asymmetric: bool) -> None:
    check_every_cut(AsymGQA(iterations=5, asymmetric=asymmetric), lambda: entangled(counts)[0])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"iterations": -1}, "iterations must be at least 0"),
        ({"neighbours": 0}, "neighbours at least 1, got 10 and 0"),
        ({"reset_rate": 1.1}, "reset_rate is a chance"),
        ({"accept_rate": float("nan")}, "accept_rate is a chance"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AsymGQA(**parameters)


def test_what_cannot_be_searched_is_refused() -> None:
    problem, _ = entangled()
    assert problem.similarity is not None
    with pytest.raises(UserError, match="keeps the number of groups"):
        run(AsymGQA(), replace(problem, free_counts=True))
    with pytest.raises(UserError, match="one objective"):
        run(AsymGQA(), replace(problem, objectives={**problem.objectives, "kv": kv_heads}))
    with pytest.raises(UserError, match="needs the similarity of the heads"):
        run(AsymGQA(), replace(problem, similarity=None))
    with pytest.raises(UserError, match=r"of shape \(4, 7, 7\), got \(3, 7, 7\)"):
        run(AsymGQA(), replace(problem, similarity=problem.similarity[:3]))
    with pytest.raises(UserError, match="finite"):
        run(AsymGQA(), replace(problem, similarity=problem.similarity * np.nan))
