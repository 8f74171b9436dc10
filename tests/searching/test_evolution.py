"""Evolution finds what counting out finds, evaluates nothing twice, and refuses nonsense."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import pytest

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching import Generation, Problem, make_method
from gqasearch.searching.evolution.evolution import Evolution
from gqasearch.searching.evolution.neighbour_descent import NeighbourDescent, neighbours_between
from gqasearch.searching.evolution.selection import crowded_tournament, tournament
from gqasearch.searching.operators import exchange
from gqasearch.searching.problem import FloatArray
from gqasearch.searching.record import Record
from tests.matrix import nightly, thinned
from tests.searching.problems import (
    Entangled,
    Pairwise,
    SetFunction,
    all_partitions,
    fits,
    kv_heads,
    one_layer,
    partitions_within,
)


def run(problem: Problem, seed: int = 0, **parameters: float) -> list[Generation]:
    method = make_method("evolution", parameters)
    return list(method.search(problem, np.random.default_rng(seed)))


LIMITS: list[tuple[int, int, dict[str, int]]] = [
    (7, 3, {}),
    (7, 4, {"largest_group": 3}),
    (6, 3, {"smallest_group": 2, "largest_group": 2}),
    (4, 2, {}),
]


@pytest.mark.parametrize(("kind", "limits"), thinned([SetFunction, Pairwise], LIMITS))
def test_finds_the_optimum_over_all_partitions(
    kind: type[SetFunction], limits: tuple[int, int, dict[str, int]]
) -> None:
    hits, (heads, count, bounds) = 0, limits
    for seed in range(10):
        objective = kind(heads, seed)
        problem = one_layer(objective, heads, count, **bounds)
        optimum = min(map(objective.of, partitions_within(problem.budget, count)))
        best = run(problem, seed)[-1].best
        assert fits(best.grouping.layers[0], count, problem.budget)
        assert best.values[0] == objective.of(best.grouping.layers[0])
        hits += best.values[0] <= optimum + 1e-12
    assert hits >= 9


@pytest.mark.parametrize(("seeds", "least"), [(6, 3), nightly((16, 12))])
def test_finds_planted_clusters_of_unequal_size_among_24_heads(seeds: int, least: int) -> None:
    rng = np.random.default_rng(1)
    labels = rng.permutation([0] * 9 + [1] * 6 + [2] * 4 + [3] * 3 + [4] + [5])
    objective = Pairwise(24, 0)
    points = rng.normal(size=(6, 8))[labels] + 0.05 * rng.normal(size=(24, 8))
    objective.distances = ((points[:, None] - points[None]) ** 2).sum(-1)
    planted = Grouping.from_labels([labels.tolist()])
    hits = [run(one_layer(objective, 24, 6), seed)[-1].best.grouping == planted for seed in range(seeds)]
    assert sum(hits) >= least  # without descents (the sum over groups is not known) one run in ten misses them


def test_beats_random_search_at_equal_evaluations() -> None:
    for seed in range(3):
        problem = one_layer(Pairwise(16, seed), 16, 5)
        last = run(problem, seed, max_evaluations=600)[-1]
        drawn = make_method("random", {"samples": 600}).search(problem, np.random.default_rng(seed))
        assert last.evaluations <= 600
        assert last.best.values < list(drawn)[-1].best.values


def test_selection_and_operators_carry_the_search_without_local_descent() -> None:
    ratios = []
    for seed in range(4):
        problem = one_layer(Pairwise(16, seed), 16, 5)
        last = run(problem, seed, max_evaluations=600, local_individuals=0)[-1]
        drawn = list(make_method("random", {"samples": 600}).search(problem, np.random.default_rng(seed)))
        ratios.append(last.best.values[0] / drawn[-1].best.values[0])
    assert np.mean(ratios) < 0.8


@pytest.mark.parametrize("parameters", [{}, {"local_steps": 0, "generations": 15}, {"tournament_size": 5}])
def test_no_genome_is_evaluated_twice(parameters: dict[str, float]) -> None:
    objective = Pairwise(9, 0)
    last = run(one_layer(objective, 9, 3), 0, **parameters)[-1]
    assert len(objective.asked) == len(set(objective.asked)) == last.evaluations


def test_best_never_gets_worse_and_generations_count_up() -> None:
    generations = run(one_layer(Pairwise(14, 0), 14, 4), local_individuals=0, generations=30)
    values = [generation.best.values[0] for generation in generations]
    assert values == sorted(values, reverse=True) and values[-1] < values[0]
    assert [generation.index for generation in generations] == list(range(len(generations)))
    assert all(generation.front == (generation.best,) for generation in generations)


def test_same_seed_same_bits_and_no_global_random_state() -> None:
    def bits(seed: int) -> list[tuple[int, str, Grouping]]:
        problem = Problem({"error": Entangled(3, 6, 0)}, Budget((2, 3, 3), 6, movable=True))
        return [(g.evaluations, g.best.values[0].hex(), g.best.grouping) for g in run(problem, seed)]

    first = bits(4)
    random.seed(5)
    before = random.getstate()
    assert bits(4) == first
    assert random.getstate() == before
    assert bits(5) != first


def test_stops_by_evaluations_by_patience_and_by_generations() -> None:
    problem = one_layer(Pairwise(12, 0), 12, 4)
    assert run(problem, max_evaluations=100)[-1].evaluations == 100
    assert run(problem, max_evaluations=7)[-1].evaluations == 7
    assert len(run(problem, generations=3)) == 4
    flat = one_layer(lambda groupings: np.zeros(len(groupings)), 12, 4)
    assert len(run(flat, patience=4)) == 5


def test_a_space_that_is_used_up_ends_the_search() -> None:
    objective = SetFunction(4, 0)
    last = run(one_layer(objective, 4, 2), patience=10_000, generations=10_000)[-1]
    assert last.evaluations == 7  # Stirling number S(4, 2)
    assert len(run(one_layer(SetFunction(4, 0), 4, 4))) <= 2


def test_groups_move_between_layers_when_the_budget_is_movable() -> None:
    first, second = SetFunction(5, 0), SetFunction(5, 1)
    second.table *= 0.01  # so the first layer wants all the groups it can get

    def total(groupings: Sequence[Grouping]) -> FloatArray:
        return np.array([first.of(grouping.layers[0]) + second.of(grouping.layers[1]) for grouping in groupings])

    problem = Problem({"error": total}, Budget((3, 3), 5, movable=True))
    optimum = min(
        first.of(a) + second.of(b) for a, b in product(all_partitions(5), repeat=2) if a.num_groups + b.num_groups == 6
    )
    best = run(problem)[-1].best
    assert best.grouping.group_counts == (5, 1)
    assert best.values[0] == pytest.approx(optimum, abs=1e-12)


def test_whole_models_that_are_no_sum_over_layers() -> None:
    objective = Entangled(3, 5, 0)
    problem = Problem({"error": objective}, Budget((2, 3, 2), 5))
    spaces = [partitions_within(problem.budget, count) for count in problem.budget.counts]
    optimum = min(float(objective([Grouping(layers)])[0]) for layers in product(*spaces))
    hits = sum(run(problem, seed)[-1].best.values[0] <= optimum + 1e-12 for seed in range(5))
    assert hits >= 4


def test_descent_ends_where_no_swap_or_move_is_better() -> None:
    record = Record(one_layer(Pairwise(12, 0), 12, 4))
    (start,) = record.evaluate([Grouping((LayerGrouping.neighbours(12, 4),))])
    (end,) = NeighbourDescent(record, np.random.default_rng(0)).descend([start], 100)
    layer = end.grouping.layers[0]
    for one, two in combinations(range(4), 2):
        neighbours = neighbours_between(layer, one, two, record.problem.budget)
        assert not any(found.dominates(end) for found in record.evaluate([Grouping((la,)) for la in neighbours]))
    assert end.dominates(start)


def test_descent_skips_pairs_of_groups_that_gained_nothing_before() -> None:
    asked: list[LayerGrouping] = []

    def nothing(groupings: Sequence[Grouping]) -> FloatArray:
        asked.extend(grouping.layers[0] for grouping in groupings)
        return np.zeros(len(groupings))

    record = Record(one_layer(nothing, 12, 4))
    descent = NeighbourDescent(record, np.random.default_rng(0))
    first = LayerGrouping.neighbours(12, 4)
    second = exchange(first, 0, 3)  # the groups {6, 7, 8} and {9, 10, 11} are in both
    individuals = record.evaluate([Grouping((first,)), Grouping((second,))])
    assert descent.descend(individuals[:1], 1) == individuals[:1]
    known = len(asked)
    assert descent.descend(individuals[1:], 1) == individuals[1:]
    assert asked[known:] and not any(set(second.groups[:2]) <= set(layer.groups) for layer in asked[known:])


def pareto(points: Sequence[tuple[float, ...]]) -> set[tuple[float, ...]]:
    """Points that no other point dominates."""
    return {p for p in points if not any(q != p and all(b <= a for a, b in zip(p, q, strict=True)) for q in points)}


def test_front_over_error_and_kv_heads_is_that_of_all_partitions() -> None:
    functions = [SetFunction(4, 0), SetFunction(4, 1)]

    def error(groupings: Sequence[Grouping]) -> FloatArray:
        return np.array([sum(f.of(la) for f, la in zip(functions, g, strict=True)) for g in groupings])

    problem = Problem({"error": error, "kv": kv_heads}, Budget((2, 2), 4), free_counts=True)
    everything = [Grouping(layers) for layers in product(all_partitions(4), repeat=2)]
    expected = pareto([candidate.values for candidate in problem.evaluate(everything)])
    generations = run(problem, patience=30)
    found = [candidate.values for candidate in generations[-1].front]
    assert len(found) == len(set(found)) and set(found) == expected
    for generation in generations:
        values = [candidate.values for candidate in generation.front]
        assert pareto(values) == set(values)
        assert generation.best.values == min(values)


def test_front_of_two_errors_at_a_fixed_budget() -> None:
    first, second = SetFunction(6, 0), SetFunction(6, 1)
    problem = Problem({"one": first, "two": second}, Budget((3,), 6))
    expected = pareto([(first.of(la), second.of(la)) for la in partitions_within(problem.budget, 3)])
    assert len(expected) > 3
    assert {candidate.values for candidate in run(problem, patience=40)[-1].front} == expected


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(wrong: float) -> None:
    inner = Pairwise(8, 0)

    def objective(groupings: Sequence[Grouping]) -> FloatArray:
        values = inner(groupings)
        values[len(inner.asked) > 50 :] = wrong
        return values

    with pytest.raises(UserError, match=r"'error' gave (nan|inf)"):
        run(one_layer(objective, 8, 3))


def test_a_budget_that_nothing_fits_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be split into 3 groups"):
        one_layer(Pairwise(8, 0), 8, 3, largest_group=2)


@pytest.mark.parametrize(
    "parameters",
    [
        {"population": 1},
        {"offspring": 0},
        {"patience": 0},
        {"crossover_rate": 1.5},
        {"mutation_rate": float("nan")},
        {"swap": -1},
        {"move": float("inf")},
        {"swap": 0, "merge_split": 0},
        {"max_evaluations": 0},
    ],
)
def test_parameters_out_of_range_are_refused_by_name(parameters: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(parameters))):
        make_method("evolution", parameters)


def test_tournaments_prefer_the_better_and_the_lonelier() -> None:
    record = Record(Problem({"one": SetFunction(5, 0), "two": SetFunction(5, 1)}, Budget((2,), 5)))
    individuals = record.evaluate([Grouping((layer,)) for layer in partitions_within(record.problem.budget, 2)])
    rng = np.random.default_rng(0)
    for number, individual in enumerate(individuals):
        individual.fitness.crowding_dist = float(number)
    front = [one for one in individuals if not any(other.dominates(one) for other in individuals)]
    assert crowded_tournament(individuals, 400, rng) is front[-1]
    assert {crowded_tournament(individuals, 2, rng).index for _ in range(400)} > {one.index for one in front}
    single = Record(one_layer(SetFunction(5, 0), 5, 2))
    ones = single.evaluate([Grouping((layer,)) for layer in partitions_within(record.problem.budget, 2)])
    assert tournament(ones, 200, rng).candidate == single.best.candidate


def test_defaults_are_the_documented_kind() -> None:
    assert make_method("evolution") == Evolution()
    assert Evolution().most_generations(one_layer(kv_heads, 4, 2)) == Evolution().generations + 1
