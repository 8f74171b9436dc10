"""QCQA: the genomes' operators, each stage against enumeration or dynamic programming, the budget, resume."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.pairwise import FloatArray, IntArray
from gqasearch.parameters import construct
from gqasearch.searching import Candidate, Generation, PairwiseErrors, Problem
from gqasearch.searching.allocation import split_budget
from gqasearch.searching.papers.nsga2_genomes import (
    ChoiceGenomes,
    LabelGenomes,
    LayerGenomes,
    RunGenomes,
    equal_counts,
    two_point,
)
from gqasearch.searching.papers.nsga2_integers import NSGA2, Rates
from gqasearch.searching.papers.qcqa import QCQA, QCQAArbitrary, QCQAEqual
from gqasearch.searching.papers.qcqa_run import BATCH, Stages
from gqasearch.searching.runner import run_search
from tests.matrix import thinned
from tests.searching.problems import Pairwise, all_partitions, budgets, kv_heads, seeds, separable
from tests.searching.test_resume import check_every_cut

KINDS: list[type[QCQA]] = [QCQAArbitrary, QCQAEqual]


def shared(num_layers: int, num_heads: int, counts: tuple[int, ...], seed: int = 0) -> Problem:
    problem, _ = separable(num_layers, num_heads, counts, seed)
    return replace(problem, budget=replace(problem.budget, movable=True))


def free(num_layers: int, num_heads: int, counts: tuple[int, ...]) -> Problem:
    problem, _ = separable(num_layers, num_heads, counts, 0)
    return replace(problem, objectives={**problem.objectives, "kv": kv_heads}, free_counts=True)


def finished(method: QCQA, problem: Problem, seed: int = 0) -> tuple[Stages, Generation]:
    stages = Stages(method.settings(problem), problem, np.random.default_rng(seed))
    *_, last = stages.generations()
    return stages, last


def varied(space: LayerGenomes, seed: int) -> IntArray:
    rng = np.random.default_rng(seed)
    drawn = space.draw(12, rng)
    crossed = space.cross(drawn, drawn[::-1].copy(), rng)
    return np.concatenate([drawn, crossed, space.mutate(crossed, 0.4, rng)])


# Genomes


@given(budgets(), seeds)
def test_operators_of_labels_keep_the_largest_size(budget: Budget, seed: int) -> None:
    space = LabelGenomes(replace(budget, smallest_group=1))
    genomes = varied(space, seed)
    assert ((genomes >= 0) & (genomes < budget.num_heads)).all()
    for row in space.labels(genomes).tolist():
        assert max(LayerGrouping.from_labels(row).sizes) <= budget.largest


@given(st.integers(1, 12), st.data(), seeds)
def test_operators_of_runs_keep_sizes_equal(heads: int, data: st.DataObject, seed: int) -> None:
    largest = data.draw(st.integers(1, heads))
    budget = Budget((heads,), heads, largest_group=largest)
    space = RunGenomes(budget)
    genomes = varied(space, seed)
    assert (np.sort(genomes[:, :-1], axis=1) == np.arange(heads)).all()
    for row in space.labels(genomes).tolist():
        layer = LayerGrouping.from_labels(row)
        assert layer.is_equal_cardinality and max(layer.sizes) <= largest
        assert layer.num_groups in equal_counts(budget)


def test_runs_reach_every_divisor_and_mutation_changes_it() -> None:
    space = RunGenomes(Budget((12,), 12))
    rng = np.random.default_rng(0)
    drawn = space.draw(100, rng)
    assert {int(labels.max()) + 1 for labels in space.labels(drawn)} == {1, 2, 3, 4, 6, 12}
    mutants = space.mutate(drawn, 0.5, rng)
    assert 0.2 < (mutants[:, -1] != drawn[:, -1]).mean() < 0.6
    assert (space.mutate(drawn, 0.0, rng) == drawn).all()


def is_order_crossover(child: list[int], mother: list[int], father: list[int]) -> bool:
    """A stretch around the ring is the mother's; the other heads follow it in the father's order."""
    heads = len(child)
    for end, kept in product(range(heads), range(1, heads + 1)):
        places = [(end + step) % heads for step in range(heads)]
        stretch = places[heads - kept :]
        rest = [head for head in (father[p] for p in places) if head not in {mother[p] for p in stretch}]
        if [child[p] for p in places] == rest + [mother[p] for p in stretch]:
            return True
    return False


@given(st.integers(2, 8), seeds)
def test_order_crossover(heads: int, seed: int) -> None:
    space, rng = RunGenomes(Budget((heads,), heads)), np.random.default_rng(seed)
    mothers, fathers = space.draw(8, rng), space.draw(8, rng)
    children = space.cross(mothers, fathers, rng)
    for child, mother, father in zip(children.tolist(), mothers.tolist(), fathers.tolist(), strict=True):
        assert is_order_crossover(child[:-1], mother[:-1], father[:-1])
        assert child[-1] in (mother[-1], father[-1])
    assert (space.cross(mothers, mothers, rng) == mothers).all()


def test_order_crossover_of_many_heads_takes_from_both() -> None:
    space, rng = RunGenomes(Budget((40,), 40)), np.random.default_rng(0)
    mothers, fathers = space.draw(100, rng), space.draw(100, rng)
    children = space.cross(mothers, fathers, rng)
    same = (children[:, :-1] == mothers[:, :-1]).mean(axis=1)
    assert 0.4 < same.mean() < 0.8 and len(np.unique(same)) > 20
    for row in range(5):
        assert is_order_crossover(*(rows[row, :-1].tolist() for rows in (children, mothers, fathers)))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), seeds)
def test_choices(options: list[int], seed: int) -> None:
    space, rng = ChoiceGenomes(options), np.random.default_rng(seed)
    mothers, fathers = space.draw(20, rng), space.draw(20, rng)
    children = space.cross(mothers, fathers, rng)
    marked = two_point(np.zeros_like(mothers), np.ones_like(mothers), rng)
    # One stretch of the father's, the mother's around it.
    assert (np.abs(np.diff(np.pad(marked, ((0, 0), (1, 1))), axis=1)).sum(axis=1) <= 2).all()
    assert ((children == mothers) | (children == fathers)).all()
    mutants = space.mutate(mothers, 1.0, rng)
    assert ((mutants >= 0) & (mutants < options)).all()
    assert ((mutants != mothers) == (np.array(options) > 1)).all()


def test_two_point_crossover_takes_from_both() -> None:
    marked = two_point(np.zeros((200, 9), dtype=np.int64), np.ones((200, 9), dtype=np.int64), np.random.default_rng(0))
    assert 0.2 < marked.mean() < 0.5 and set(marked.sum(axis=1).tolist()) == set(range(10))


@given(st.integers(2, 9), seeds)
def test_names_of_groups_change_nothing(heads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors = PairwiseErrors(Pairwise(heads, seed % 100).distances)
    # A public reproduction multiplies weights by ids, so that a group with id 0 has no error.
    one_group = errors.evaluate(np.array([[0] * heads, [3] * heads]))
    assert one_group == pytest.approx([errors.group_error(tuple(range(heads)))] * 2, rel=1e-12)
    labels = LabelGenomes(Budget((1,), heads)).draw(10, rng)
    assert (errors.evaluate(rng.permutation(heads)[labels]) == errors.evaluate(labels)).all()
    space = RunGenomes(Budget((heads,), heads))
    genomes = space.draw(1, rng)
    size = heads // int(space.divisors[genomes[0, -1]])
    runs = genomes[:, :-1].reshape(-1, size)
    shuffled = rng.permuted(rng.permutation(runs), axis=1).reshape(1, -1)
    renamed = np.concatenate([shuffled, genomes[:, -1:]], axis=1)
    same = [LayerGrouping.from_labels(space.labels(rows)[0].tolist()) for rows in (genomes, renamed)]
    assert same[0] == same[1]


# NSGA-II


def test_a_population_has_no_genome_twice_and_only_its_best() -> None:
    def evaluate(genomes: IntArray) -> FloatArray:
        seen.extend(map(tuple, genomes.tolist()))
        return np.stack([genomes.sum(axis=1), ((genomes - 3) ** 2).sum(axis=1)], axis=1).astype(float)

    seen: list[tuple[int, ...]] = []
    search = NSGA2(ChoiceGenomes([6] * 4), evaluate, Rates(16, 0.9, 0.25), np.random.default_rng(0))
    search.start()
    lowest = search.values.min(axis=0)
    for _ in range(60):
        search.advance()
        rows = {tuple(row) for row in search.genomes.tolist()}
        assert len(rows) == len(search.genomes) == 16
        assert (evaluate(search.genomes) == search.values).all()
        # Survival never loses the ends of the front.
        assert (search.values.min(axis=0) <= lowest).all()
        lowest = search.values.min(axis=0)
    assert len(seen) == 16 * 61 + 16 * 60
    # Non-dominated: a sum from 0 to 12, dealt as evenly as it goes.
    assert lowest.tolist() == [0.0, 0.0] and len(np.unique(search.values[:, 0])) >= 10
    for row, (total, _) in zip(search.genomes.tolist(), search.values.tolist(), strict=True):
        assert total <= 12 and max(row) - min(row) <= 1


class Recorded(ChoiceGenomes):
    """One gene, every value drawn once; keeps the parents that are crossed."""

    def __init__(self, options: int) -> None:
        super().__init__([options])
        self.crossed: list[int] = []

    def draw(self, count: int, rng: np.random.Generator) -> IntArray:
        return np.arange(count)[:, None]

    def cross(self, mothers: IntArray, fathers: IntArray, rng: np.random.Generator) -> IntArray:
        self.crossed += [*mothers[:, 0].tolist(), *fathers[:, 0].tolist()]
        return super().cross(mothers, fathers, rng)


def parents(evaluate: Callable[[IntArray], FloatArray], crossover: float = 1.0) -> FloatArray:
    """How often each of sixteen genomes 0..15 became a parent, relative to the mean."""
    space = Recorded(16)
    search = NSGA2(space, evaluate, Rates(16, crossover, 0.0), np.random.default_rng(0))
    search.start()
    assert sorted(search.genomes[:, 0].tolist()) == list(range(16))
    for _ in range(40):
        search.advance()
    counts = np.bincount(space.crossed, minlength=16)
    # All genomes are known: every generation tries ten times for sixteen children.
    assert counts.sum() == pytest.approx(crossover * 2 * 40 * 10 * 16, rel=0.05)
    return np.asarray(counts / max(counts.mean(), 1))


def test_the_better_of_two_becomes_a_parent() -> None:
    chosen = parents(lambda genomes: np.repeat(genomes, 2, axis=1).astype(float))
    expected = [(2 * (16 - rank) - 1) / 16 for rank in range(16)]
    assert chosen.tolist() == pytest.approx(expected, abs=0.15)


def test_the_lonelier_of_two_becomes_a_parent() -> None:
    chosen = parents(lambda genomes: np.concatenate([2.0**genomes, -(2.0**genomes)], axis=1))
    # Both ends win over all others; of the others those with the wider gaps, towards the high end.
    assert chosen[[0, 15]].tolist() == pytest.approx([1.875] * 2, abs=0.2)
    assert chosen[1] < chosen[5] < chosen[9] < chosen[14]


def test_the_rate_of_crossover() -> None:
    for rate in (0.0, 0.5):
        parents(lambda genomes: np.repeat(genomes, 2, axis=1).astype(float), rate)


def test_a_space_smaller_than_the_population_is_seen_whole() -> None:
    def evaluate(genomes: IntArray) -> FloatArray:
        rows.extend(map(tuple, genomes.tolist()))
        return np.stack([genomes.sum(axis=1), -genomes.sum(axis=1)], axis=1).astype(float)

    rows: list[tuple[int, ...]] = []
    search = NSGA2(ChoiceGenomes([2, 2, 1]), evaluate, Rates(50, 0.9, 0.5), np.random.default_rng(0))
    search.start()
    for _ in range(5):
        search.advance()
    assert sorted(rows) == [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)] == sorted(map(tuple, search.genomes.tolist()))


# Stages


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_stage_one_finds_the_whole_curve_of_few_heads(kind: type[QCQA], seed: int) -> None:
    problem, (function,) = separable(1, 6, (3,), seed)
    stages, _ = finished(kind(population=60, generations=60), problem)
    best: dict[int, float] = {}
    for layer in all_partitions(6):
        if kind is QCQAArbitrary or layer.is_equal_cardinality:
            best[layer.num_groups] = min(best.get(layer.num_groups, np.inf), function.of(layer))
    met = {count: error for count, (error, _) in stages.curves[0].items()}
    front = [count for count in best if all(best[count] < best[fewer] for fewer in best if fewer < count)]
    assert {count: met[count] for count in front} == {count: best[count] for count in front}
    for count, (error, labels) in stages.curves[0].items():
        layer = LayerGrouping.from_labels(labels)
        assert layer.num_groups == count and function.of(layer) == error


def table(stages: Stages, heads: int) -> FloatArray:
    """Lowest error of stage 1 for every layer and number of groups, (L, H)."""
    errors = np.full((len(stages.curves), heads), np.inf)
    errors[:, -1] = 0.0
    for layer, curve in enumerate(stages.curves):
        for count, (error, _) in curve.items():
            errors[layer, count - 1] = min(error, errors[layer, count - 1])
    return errors


@pytest.mark.parametrize("kind", KINDS)
def test_stage_two_with_the_table_finds_the_exact_split(kind: type[QCQA]) -> None:
    problem = free(4, 6, (3, 3, 3, 2))
    stages, last = finished(kind(population=60, generations=60, stage_two="table"), problem)
    split = split_budget(table(stages, 6))
    within = split.best_total(problem.budget.total)
    assert last.best.values[0] == pytest.approx(split.errors[within], rel=1e-12)
    lowest, front = np.inf, {}
    for total, error in enumerate(split.errors.tolist()):
        if total and error < lowest:
            lowest = front[total] = error
    assert {c.grouping.kv_heads_total: c.values[0] for c in last.front} == pytest.approx(front)


@pytest.mark.parametrize("kind", KINDS)
def test_stage_two_with_one_point_finds_the_best_layers_to_group(kind: type[QCQA]) -> None:
    errors = tuple(PairwiseErrors(Pairwise(6, seed).distances) for seed in range(5))
    problem = replace(shared(5, 6, (3, 3, 4, 4, 4)), layer_errors=errors)
    stages, last = finished(kind(population=30, generations=30, layer_groups=2), problem)
    points = [curve[2][0] for curve in stages.curves]
    sums = [
        sum(error for error, bit in zip(points, bits, strict=True) if bit)
        for bits in product([0, 1], repeat=5)
        if sum(2 if bit else 6 for bit in bits) <= 18
    ]
    grouped = min(error for total, (error, _) in stages.whole.items() if total <= 18)
    assert grouped == pytest.approx(min(sums), rel=1e-12)
    assert last.best.values == (min(grouped, stages.neighbours.values[0]),)
    assert set(stages.whole) == {30 - 4 * layers for layers in range(6)}


def test_layer_groups_default_to_a_quarter_that_the_budget_allows() -> None:
    def default(kind: type[QCQA], heads: int, counts: tuple[int, ...], largest: int | None = None) -> int | None:
        problem, _ = separable(len(counts), heads, counts, 0)
        budget = replace(problem.budget, largest_group=largest)
        return kind().settings(replace(problem, budget=budget)).layer_groups

    assert default(QCQAArbitrary, 12, (6, 6)) == 3
    assert default(QCQAArbitrary, 12, (1, 4)) == 2
    assert default(QCQAArbitrary, 3, (2, 2)) == 1
    assert default(QCQAEqual, 10, (5, 5)) == 2
    assert default(QCQAEqual, 10, (6, 6), largest=2) == 5
    assert QCQAArbitrary(stage_two="table").settings(separable(1, 6, (3,), 0)[0]).layer_groups is None


def true_value(problem: Problem, candidate: Candidate) -> float:
    return problem.evaluate([candidate.grouping])[0].values[0]


@pytest.mark.parametrize("stage_two", ["one-point", "table"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_best_keeps_the_budget_and_never_gets_worse(kind: type[QCQA], stage_two: Any) -> None:
    problem = shared(3, 6, (2, 4, 3))
    method = kind(population=20, generations=25, stage_two=stage_two)
    generations = list(run_search(method, problem, np.random.default_rng(1)))
    assert [generation.index for generation in generations] == list(range(1 + 4 * -(-25 // BATCH)))
    neighbours = Grouping(tuple(LayerGrouping.neighbours(6, count) for count in (2, 4, 3)))
    assert generations[0].best.grouping == neighbours
    values = [generation.best.values[0] for generation in generations]
    assert values == sorted(values, reverse=True) and values[-1] < values[0]
    for generation in generations:
        assert generation.front == (generation.best,)
        assert generation.best.grouping.kv_heads_total <= 9
        assert true_value(problem, generation.best) == pytest.approx(generation.best.values[0], rel=1e-12)


def test_neighbours_stand_in_where_nothing_fits() -> None:
    """Ten heads in groups of at most three: equal sizes need five groups, the budget has four."""
    problem, _ = separable(2, 10, (4, 4), 0)
    problem = replace(problem, budget=replace(problem.budget, largest_group=3))
    _, last = finished(QCQAEqual(population=10, generations=5), problem)
    assert last.best.grouping == Grouping((LayerGrouping.neighbours(10, 4),) * 2)
    stages, last = finished(QCQAEqual(population=10, generations=5), replace(problem, objectives=free_objectives()))
    assert last.best in last.front and last.best.values[1] == 8
    assert sorted(stages.whole) == [10, 15, 20]


def test_neighbours_are_of_the_front_where_they_are_better() -> None:
    """Pairs of equal heads side by side: three groups of neighbours are perfect, two groups are not."""
    line = np.repeat(np.arange(3.0), 2)
    errors = (PairwiseErrors((line[:, None] - line) ** 2),) * 5
    problem = replace(free(5, 6, (3, 3, 3, 3, 6)), layer_errors=errors)
    stages, last = finished(QCQAArbitrary(population=30, generations=30, layer_groups=2), problem)
    assert stages.whole[18][0] > 0
    assert last.front[-1] == last.best == stages.neighbours and last.best.values == (0.0, 18.0)
    assert [candidate.values[1] for candidate in last.front] == [10, 14, 18]


def free_objectives() -> dict[str, Any]:
    return {"error": kv_heads, "kv": kv_heads}


def test_the_front_has_both_objectives_at_the_end() -> None:
    problem = free(3, 6, (2, 4, 3))
    *before, last = run_search(QCQAArbitrary(population=20, generations=20), problem, np.random.default_rng(0))
    assert all(generation.front == (generation.best,) for generation in before)
    totals = [candidate.values[1] for candidate in last.front]
    errors = [candidate.values[0] for candidate in last.front]
    assert totals == sorted(set(totals)) and errors == sorted(set(errors), reverse=True)
    assert errors[-1] == 0.0 and totals[-1] == 18
    assert last.best == min((c for c in last.front if c.values[1] <= 9), key=lambda c: c.values)
    for candidate in last.front:
        assert candidate.values == pytest.approx(problem.evaluate([candidate.grouping])[0].values, rel=1e-12)


def test_evaluations_are_all_genomes_evaluated() -> None:
    class Counted(PairwiseErrors):
        rows = 0

        def evaluate(self, labels: IntArray) -> FloatArray:
            Counted.rows += len(labels)
            return super().evaluate(labels)

    errors = tuple(Counted(Pairwise(7, seed).distances) for seed in range(2))
    problem = Problem({"error": kv_heads}, Budget((3, 4), 7, movable=True), layer_errors=errors)
    method = QCQAArbitrary(population=15, generations=13)
    stages = Stages(method.settings(problem), problem, np.random.default_rng(0))
    for generation in stages.generations():
        if stages.step < 2:
            assert generation.evaluations == Counted.rows
    # Two layers for 4 genomes; stage 2 has no more.
    assert Counted.rows == 2 + 2 * 15 * 14 and generation.evaluations == Counted.rows + 4


def test_size_bounds_hold_in_the_answer() -> None:
    problem = shared(2, 9, (5, 5))
    problem = replace(problem, budget=replace(problem.budget, largest_group=3))
    for kind in KINDS:
        stages, last = finished(kind(population=20, generations=20), problem)
        assert max(max(layer.sizes) for layer in last.best.grouping) <= 3
        for curve in stages.curves:
            assert all(max(LayerGrouping.from_labels(row).sizes) <= 3 for _, row in curve.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_alone_decides(kind: type[QCQA]) -> None:
    method, problem = kind(population=12, generations=12), shared(2, 8, (3, 4))
    random.seed(1)
    drawn = random.getstate()
    runs = [finished(method, problem, seed)[0].curves for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    assert random.getstate() == drawn


RESUMED: dict[str, tuple[dict[str, Any], Callable[[], Problem]]] = {
    "one point": ({}, lambda: shared(3, 6, (2, 3, 3))),
    "table": ({"stage_two": "table"}, lambda: shared(2, 6, (3, 3))),
    "fixed counts": ({}, lambda: separable(2, 5, (2, 3), 0)[0]),
    "free": ({"stage_two": "table"}, lambda: free(2, 6, (2, 3))),
    "no generations": ({"generations": 0}, lambda: shared(2, 6, (3, 3))),
}


@pytest.mark.parametrize(("case", "kind"), thinned(RESUMED, KINDS))
def test_resumed_search_equals_the_uninterrupted_one(kind: type[QCQA], case: str) -> None:
    parameters, problem = RESUMED[case]
    check_every_cut(kind(**{"population": 10, "generations": 23, **parameters}), problem)


# Refusals


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"population": 1}, "population must be a number of at least 2, got 1"),
        ({"mutation_rate": 1.5}, "mutation_rate is a chance"),
        ({"crossover_rate": float("nan")}, "crossover_rate"),
        ({"layer_groups": 0}, "layer_groups must be a number of at least 1"),
        ({"layer_groups": 2, "stage_two": "table"}, "layer_groups has no effect"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        QCQAArbitrary(**parameters)


def test_a_misspelt_stage_is_refused() -> None:
    with pytest.raises(UserError, match=r"stage_two: must be .*, got 'tabel'"):
        construct(QCQAEqual, "method qcqa-ec", {"stage_two": "tabel"})


def test_what_cannot_be_searched_is_refused() -> None:
    problem = shared(2, 6, (3, 3))
    for method, message in [
        (QCQAArbitrary(layer_groups=7), r"one of \[1, 2, 3, 4, 5, 6\], got 7"),
        (QCQAEqual(layer_groups=4), r"one of \[1, 2, 3, 6\], got 4"),
        (QCQAArbitrary(layer_groups=4), "more than the budget of 6; at most 3"),
    ]:
        with pytest.raises(UserError, match=message):
            method.settings(problem)
    equal = replace(problem, budget=Budget((3, 3), 6, smallest_group=2, largest_group=2))
    with pytest.raises(UserError, match="without equal_sizes"):
        QCQAEqual().settings(equal)
    with pytest.raises(UserError, match="sum over groups"):
        run_search(QCQAArbitrary(), replace(problem, layer_errors=None), np.random.default_rng(0))
