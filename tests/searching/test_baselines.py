"""The baselines: what all of them promise, and what each one does."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching import Generation, GroupErrors, PairwiseErrors, Problem, SetErrors, make_method
from gqasearch.searching.baselines.annealing import Annealing, _Annealing
from gqasearch.searching.baselines.deap_stock import DeapStock, _DeapStock
from gqasearch.searching.baselines.hill_climb import HillClimb, _HillClimb
from gqasearch.searching.runner import run_search
from tests.searching.problems import (
    Entangled,
    Pairwise,
    SetFunction,
    budgets,
    fits,
    one_by_one,
    one_layer,
    partitions_within,
    seeds,
)

# Small settings of every baseline, and enough of each to find the best of 31 partitions.
SMALL: dict[str, dict[str, Any]] = {
    "norm-sort": {},
    "agglomerative": {},
    "k-means": {"restarts": 55},
    "hill-climb": {"restarts": 3, "swaps": 300},
    "annealing": {"chains": 2, "steps": 600},
    "tpe": {"trials": 6, "batch": 5},
    "cma-es": {"trials": 12, "batch": 5},
    "deap-stock": {"population": 6, "generations": 2},
}
ENOUGH: dict[str, dict[str, Any]] = {
    **SMALL,
    "hill-climb": {"restarts": 20, "swaps": 300},
    "tpe": {"trials": 60},
    "cma-es": {"trials": 150},
    "deap-stock": {"population": 20, "generations": 20},
}


def make_problem(errors: GroupErrors, budget: Budget) -> Problem:
    norms = np.random.default_rng(0).random((1, budget.num_heads))
    return Problem({"error": errors.objective}, budget, layer_errors=(errors,), norms=norms)


def random_errors(kind: str, heads: int) -> GroupErrors:
    if kind == "pairwise":
        return PairwiseErrors(Pairwise(heads, 0).distances)
    return SetErrors(heads, one_by_one(SetFunction(heads, 0).error))


def searched(name: str, problem: Problem, parameters: dict[str, Any], seed: int = 0) -> list[Generation]:
    return list(make_method(name, parameters).search(problem, np.random.default_rng(seed)))


@pytest.mark.parametrize("kind", ["pairwise", "sets"])
@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=8, deadline=None)
@given(budget=budgets(), seed=seeds)
def test_bounds_and_counts_are_kept(name: str, kind: str, budget: Budget, seed: int) -> None:
    errors = random_errors(kind, budget.num_heads)
    problem = make_problem(errors, budget)
    generations = searched(name, problem, SMALL[name], seed)
    assert [generation.index for generation in generations] == list(range(len(generations)))
    assert len(generations) == make_method(name, SMALL[name]).most_generations(problem)
    for before, after in pairwise(generations):
        assert after.best.values <= before.best.values and after.evaluations >= before.evaluations
    for generation in generations:
        assert fits(generation.best.grouping.layers[0], budget.counts[0], budget)
        assert generation.best.values == tuple(errors.objective([generation.best.grouping]))
        assert generation.front == (generation.best,)


PLANTED = LayerGrouping.from_groups([[0, 2, 5], [1, 3, 4]])


def planted_points() -> np.ndarray[Any, Any]:
    centres = np.array([[0.0, 0.0], [20.0, 5.0]])
    return centres[list(PLANTED.labels)] + np.random.default_rng(0).normal(size=(6, 2))


def planted_errors(kind: str) -> GroupErrors:
    x = planted_points()
    if kind == "pairwise":
        return PairwiseErrors(((x[:, None] - x[None]) ** 2).sum(-1))
    # The largest distance inside a group is no sum over pairs.
    return SetErrors(6, one_by_one(lambda heads: max(float(np.linalg.norm(x[i] - x[j])) for i in heads for j in heads)))


@pytest.mark.parametrize("kind", ["pairwise", "sets"])
@pytest.mark.parametrize("name", [name for name in SMALL if name != "norm-sort"])
def test_planted_groups_are_found(name: str, kind: str) -> None:
    budget = Budget((2,), 6)
    problem = make_problem(planted_errors(kind), budget)
    best = min(partitions_within(budget, 2), key=lambda layer: problem.evaluate([Grouping((layer,))])[0].values)
    assert best == PLANTED
    assert searched(name, problem, ENOUGH[name])[-1].best.grouping.layers == (PLANTED,)


@pytest.mark.parametrize("kind", ["pairwise", "sets"])
@pytest.mark.parametrize("name", SMALL)
def test_a_seed_gives_one_result(name: str, kind: str) -> None:
    def bits() -> list[Any]:
        generations = searched(name, make_problem(random_errors(kind, 8), Budget((3,), 8)), SMALL[name], 5)
        return [(g.index, g.evaluations, g.best) for g in generations]

    assert bits() == bits()


@pytest.mark.parametrize("name", SMALL)
def test_functions_of_the_whole_model(name: str) -> None:
    """A method takes them, within the budget of every layer, or says that it cannot."""
    budget = Budget((2, 3), 5)
    problem = Problem({"error": Entangled(2, 5, 0)}, budget, norms=np.ones((2, 5)))
    method = make_method(name, SMALL[name])
    if method.whole_model:
        *_, last = run_search(method, problem, np.random.default_rng(0))
        assert last.best.grouping.group_counts == budget.counts
    else:
        with pytest.raises(UserError, match=f"{name} needs one fitness that is a sum over groups"):
            run_search(method, problem, np.random.default_rng(0))
        with pytest.raises(ValueError, match="one layer of a sum"):
            list(method.search(problem, np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("agglomerative", {"linkage": "single"}),
        ("k-means", {"restarts": 0}),
        ("k-means", {"iterations": 0}),
        ("hill-climb", {"swaps": 0}),
        ("annealing", {"chains": 0}),
        ("annealing", {"coldest": 2.0}),
        ("annealing", {"coldest": float("nan")}),
        ("cma-es", {"trials": 0}),
        ("deap-stock", {"population": 1}),
        ("deap-stock", {"crossover_rate": 1.5}),
        ("deap-stock", {"mutation_rate": float("nan")}),
    ],
)
def test_parameters_out_of_range_are_refused(name: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{name}.*{next(iter(parameters))}"):
        make_method(name, parameters)


def test_norm_sort_lets_heads_of_similar_norm_share() -> None:
    problem = one_layer(SetFunction(6, 0), 6, 3)
    problem = replace(problem, norms=np.array([[5.0, 1.0, 4.0, 1.0, 9.0, 4.0]]))
    (only,) = run_search(make_method("norm-sort"), problem, np.random.default_rng(0))
    assert only.best.grouping.layers[0].groups == ((0, 4), (1, 3), (2, 5))
    assert only.evaluations == 1


def test_norm_sort_without_norms_says_so() -> None:
    with pytest.raises(UserError, match="norm-sort needs the norms of the heads"):
        run_search(make_method("norm-sort"), one_layer(SetFunction(6, 0), 6, 3), np.random.default_rng(0))


def test_hill_climb_evaluates_every_end_of_errors_that_are_no_sum_over_pairs() -> None:
    function = SetFunction(8, 0)
    asked: list[Grouping] = []

    def objective(groupings: Any) -> Any:
        asked.extend(groupings)
        return function(groupings)

    problem = make_problem(SetErrors(8, one_by_one(function.error)), Budget((3,), 8))
    problem = replace(problem, objectives={"error": objective})
    (last,) = searched("hill-climb", problem, {"restarts": 30, "swaps": 100})
    assert 10 < len(asked) <= 30
    assert last.evaluations == len(asked) + 8 * 7 // 2
    assert last.best.values[0] == min(map(function.of, (grouping.layers[0] for grouping in asked)))


def test_hill_climb_counts_every_proposal_and_keeps_sizes_without_moves() -> None:
    problem = make_problem(random_errors("pairwise", 9), Budget((3,), 9))
    run = _HillClimb(HillClimb(restarts=1, swaps=200), problem, np.random.default_rng(0))
    run.prepare()
    before = run.labels
    run.index = -1
    run.advance()
    assert 100 < run.record.evaluations < 200  # swaps inside a group are none
    assert sorted(np.bincount(run.labels[0])) == sorted(np.bincount(before[0]))


def test_hill_climb_ends_where_no_swap_improves() -> None:
    errors = random_errors("pairwise", 9)
    (*_, last) = searched("hill-climb", make_problem(errors, Budget((3,), 9)), {"restarts": 1, "swaps": 2000})
    labels = list(last.best.grouping.layers[0].labels)
    for i in range(9):
        for j in range(i):
            swapped = list(labels)
            swapped[i], swapped[j] = labels[j], labels[i]
            assert errors.evaluate(np.array([swapped]))[0] >= last.best.values[0] * (1 - 1e-9)


def test_annealing_cools_from_the_hottest_to_the_coldest() -> None:
    method = Annealing(steps=1000, hottest=0.5, coldest=0.01)
    temperatures = np.concatenate([method.temperatures(first, 250) for first in range(0, 1000, 250)])
    assert temperatures[0] == 0.5 and temperatures[-1] == pytest.approx(0.01)
    np.testing.assert_allclose(temperatures[1:] / temperatures[:-1], (0.01 / 0.5) ** (1 / 999))


def annealed(method: Annealing, problem: Problem) -> _Annealing:
    run = _Annealing(method, problem, np.random.default_rng(0))
    assert list(run.generations())
    return run


def test_annealing_goes_uphill_while_it_is_hot() -> None:
    """Chains leave their best behind when hot and end on it when cold."""
    problem = make_problem(random_errors("pairwise", 9), Budget((3,), 9))

    def away(hottest: float, coldest: float) -> int:
        run = annealed(Annealing(chains=20, steps=500, hottest=hottest, coldest=coldest), problem)
        best, ends = run.best, run.labels
        errors = problem.layer_errors[0] if problem.layer_errors else None
        assert errors is not None
        return int((errors.evaluate(ends) > errors.evaluate(best) * (1 + 1e-9)).sum())

    assert away(5.0, 5.0) > 15
    assert away(1e-9, 1e-9) == 0


def test_annealing_with_nothing_to_change_has_no_temperature() -> None:
    problem = make_problem(random_errors("pairwise", 5), Budget((1,), 5))
    run = annealed(Annealing(**SMALL["annealing"]), problem)
    assert run.spread == 0.0 and run.record.evaluations == 1


def test_deap_leaves_the_global_generator_alone() -> None:
    problem = make_problem(random_errors("sets", 6), Budget((2,), 6))
    results = []
    for seed in (1, 2):
        random.seed(seed)
        before = random.getstate()
        results.append(searched("deap-stock", problem, SMALL["deap-stock"])[-1].best)
        assert random.getstate() == before
    assert results[0] == results[1]


def test_deap_genomes_are_not_repaired_only_their_fitness_is() -> None:
    errors = random_errors("sets", 6)
    budget = Budget((2,), 6, smallest_group=3, largest_group=3)
    run = _DeapStock(DeapStock(population=30, generations=3), make_problem(errors, budget), np.random.default_rng(0))
    assert list(run.generations())
    sizes = {tuple(sorted(np.bincount(row, minlength=2).tolist())) for row in run.population}
    assert sizes - {(3, 3)}
    allowed = {float(errors.objective([Grouping((layer,))])[0]) for layer in partitions_within(budget, 2)}
    assert {genome.fitness.values[0] for genome in run.population} <= allowed


def test_deap_evolves() -> None:
    """Selection and variation beat as many random genomes."""
    problem = make_problem(random_errors("pairwise", 14), Budget((4,), 14))
    evolved = [searched("deap-stock", problem, {"population": 30, "generations": 20}, s)[-1] for s in range(3)]
    drawn = [searched("random", problem, {"samples": 630}, s)[-1] for s in range(3)]
    assert max(g.best.values[0] for g in evolved) < min(g.best.values[0] for g in drawn)


def test_cma_es_takes_models_with_many_labels() -> None:
    """Beyond 256 labels the separable form; both adapt and keep the budget."""
    for layers in (10, 17):
        problem = Problem({"error": Entangled(layers, 16, 0)}, Budget((4,) * layers, 16))
        generations = searched("cma-es", problem, {"trials": 60, "batch": 20})
        assert [generation.evaluations for generation in generations] == [20, 40, 60]
        assert generations[-1].best.grouping.group_counts == (4,) * layers
