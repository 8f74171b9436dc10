"""Groupings to rank, and the file of what was measured."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqasearch.budget import Budget
from gqasearch.comparison.samples import (
    Met,
    Sampled,
    WatchedProblem,
    random_groupings,
    read_sample,
    together,
    top_of_layers,
    top_of_values,
    write_sample,
)
from gqasearch.comparison.values import Column, Values
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching import Problem, make_method
from gqasearch.searching.evaluation_log import values_of
from gqasearch.searching.runner import run_search
from tests.searching.logged import logged
from tests.searching.problems import Entangled, budgets, fits, partitions_within, seeds, separable


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(budgets(max_layers=3), seeds)
def test_random_groupings_are_different_and_within_the_budget(budget: Budget, seed: int) -> None:
    found = random_groupings(budget, 12, rng(seed))
    assert len(set(found)) == len(found) <= 12
    for grouping in found:
        assert all(fits(layer, count, budget) for layer, count in zip(grouping, budget.counts, strict=True))
    assert found == random_groupings(budget, 12, rng(seed))


def test_a_small_space_gives_all_that_there_is() -> None:
    budget = Budget((2,), 4)
    found = random_groupings(budget, 50, rng())
    assert {grouping.layers[0] for grouping in found} == set(partitions_within(budget, 2))


def test_top_groupings_are_made_of_the_best_that_a_search_by_layer_evaluated() -> None:
    problem, functions = separable(2, 7, (3, 2), 0)
    met = Met()
    *_, last = run_search(make_method("random"), WatchedProblem.of(problem, met), rng())
    winner = last.best.grouping
    found = top_of_layers(winner, met, 5, rng())
    assert found[0] == winner
    assert len(set(found)) == 5
    for index, function in enumerate(functions):
        asked = {grouping.layers[0] for grouping in function.asked}
        best = sorted(asked, key=function.of)[:5]
        assert {grouping.layers[index] for grouping in found} <= set(best)


def test_watching_changes_nothing() -> None:
    problem, _ = separable(2, 7, (3, 2), 0)
    watched = WatchedProblem.of(problem, Met())
    a, b = ([one.best for one in run_search(make_method("evolution"), p, rng())] for p in (problem, watched))
    assert a == b


def test_top_groupings_of_a_whole_model_search_are_the_best_of_its_log(tmp_path: Path) -> None:
    objective = Entangled(2, 6, 0)
    problem, log = logged(Problem({"error": objective}, Budget((3, 3), 6)), tmp_path / "log.jsonl", [])
    with closing(log):
        *_, last = run_search(make_method("random"), problem, rng())
    values = values_of(tmp_path / "log.jsonl", "error", 2)
    asked = list(dict.fromkeys(objective.asked))
    assert list(values) == asked and list(values.values()) == objective(asked).tolist()
    found = top_of_values(last.best.grouping, values, 4)
    assert found == sorted(asked, key=values.__getitem__)[:4]
    assert top_of_values(last.best.grouping, {}, 4) == [last.best.grouping]


def test_a_grouping_that_two_searches_met_is_in_the_pool_once() -> None:
    one, two = (Grouping((LayerGrouping.neighbours(4, count),)) for count in (2, 3))
    pool = together({"a": [one, two], "b": [one]})
    assert pool == [Sampled(one, ("a", "b")), Sampled(two, ("a",))]


def test_a_sample_comes_back_and_damage_is_named(tmp_path: Path) -> None:
    sample = [Sampled(grouping, ("kl",)) for grouping in random_groupings(Budget((3, 2), 6), 4, rng())]
    path = tmp_path / "deep" / "top.json"
    write_sample(path, sample)
    assert read_sample(path) == sample
    for text in (
        "{",
        "{}",
        '{"groupings": [{"labels": []}]}',
        '{"groupings": [{"labels": [[0], [0, 1]], "met_by": []}]}',
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=r"top\.json"):
            read_sample(path)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_values_come_back_with_the_same_bits(tmp_path_factory: pytest.TempPathFactory, numbers: list[float]) -> None:
    path = tmp_path_factory.mktemp("values") / "ratio" / "values.csv"
    values, column = Values(path), Column("random", "fitness", 'odd, "name"')
    values.add(column, list(range(len(numbers))), numbers)
    values.save()
    again = Values(path)
    assert again.column(column, len(numbers)).tolist() == numbers
    again.save()
    assert Values(path).missing(column, len(numbers) + 2) == [len(numbers), len(numbers) + 1]
    with pytest.raises(UserError, match="unfinished"):
        again.column(column, len(numbers) + 1)


def test_a_damaged_file_of_values_is_named(tmp_path: Path) -> None:
    path = tmp_path / "values.csv"
    for text in ("pool,grouping\nrandom,1\n", "pool,grouping,kind,name,value\nrandom,1,fitness,kl,much\n"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"values\.csv is damaged"):
            Values(path)
