"""A search that was stopped is made again with the same bits, from its log, for every method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.searching import Generation, Limit, Objective, PairwiseErrors, Problem, SearchMethod, make_method
from gqasearch.searching.exact import Exact
from gqasearch.searching.problem import FloatArray
from gqasearch.searching.runner import run_search
from tests.matrix import thinned
from tests.searching.logged import Asked, logged
from tests.searching.problems import Entangled, Pairwise, SetFunction, kv_heads, one_layer, separable

SMALL = {"population": 6, "offspring": 5, "generations": 6, "local_individuals": 2, "local_steps": 2}
Bits = tuple[Any, ...]
CUTS = 5


def bits(generation: Generation) -> Bits:
    values = [[value.hex() for value in candidate.values] for candidate in generation.front]
    groupings = [candidate.grouping for candidate in generation.front]
    return generation.index, generation.evaluations, generation.best, values, groupings


def pairwise_layers(movable: bool) -> Problem:
    """A sum over layers of sums over pairs."""
    layers = [Pairwise(5, seed) for seed in range(2)]

    def total(groupings: Sequence[Grouping]) -> FloatArray:
        return np.array([sum(f.of(layer) for f, layer in zip(layers, g, strict=True)) for g in groupings])

    errors = tuple(PairwiseErrors(layer.distances) for layer in layers)
    return Problem({"error": total}, Budget((2, 3), 5, movable=movable), layer_errors=errors)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "one layer": lambda: one_layer(Pairwise(9, 0), 9, 4),
    "layer by layer": lambda: separable(4, 6, (3, 1, 2, 6), 0)[0],
    "pairwise, layer by layer": lambda: pairwise_layers(movable=False),
    "pairwise, movable": lambda: pairwise_layers(movable=True),
    "movable": lambda: Problem({"error": Entangled(3, 5, 0)}, Budget((2, 3, 2), 5, movable=True)),
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "evolution": ("evolution", SMALL),
    "exhausted": ("evolution", {}),
    "limited": ("evolution", {**SMALL, "max_evaluations": 40}),
    "random": ("random", {"samples": 23, "batch": 5}),
    "neighbour": ("neighbour", {}),
    "tpe": ("tpe", {"trials": 12, "batch": 5}),
    "cma-es": ("cma-es", {"trials": 25, "batch": 10}),
    "deap-stock": ("deap-stock", {"population": 8, "generations": 3}),
    "norm-sort": ("norm-sort", {}),
    "agglomerative": ("agglomerative", {}),
    "k-means": ("k-means", {"restarts": 110}),
    "hill-climb": ("hill-climb", {"restarts": 3, "swaps": 600, "moves": True}),
    "annealing": ("annealing", {"chains": 2, "steps": 600}),
}


def check_every_cut(method: SearchMethod, make_problem: Callable[[], Problem]) -> None:
    """With what was noted until any generation, the search is made again, and evaluates nothing that was evaluated."""
    whole, ends, before = list[Bits](), list[tuple[int, int]](), Asked()
    with TemporaryDirectory() as folder:
        path, seconds = Path(folder) / "log.jsonl", list[float]()
        problem, log = logged(make_problem(), path, before)
        with closing(log):
            for generation in run_search(method, problem, np.random.default_rng(3)):
                whole.append(bits(generation))
                seconds.append(problem.clock.seconds)
                ends.append((path.stat().st_size, len(before)))
        assert len(before) == len(set(before)) or method.on_parts
        everything = path.read_bytes()
        for cut in sorted({int(place) for place in np.linspace(0, len(ends) - 1, CUTS)}):
            (noted, made), after = ends[cut], Asked()
            path.write_bytes(everything[:noted] + everything[noted : noted + 20].split(b"\n")[0])  # a torn line, too
            problem, log = logged(make_problem(), path, after, seconds[: cut + 1])
            with closing(log):
                again = [bits(generation) for generation in run_search(method, problem, np.random.default_rng(3))]
            assert again == whole
            assert not set(after) & set(before[:made])
            assert path.read_bytes() == everything


def with_norms(problem: Problem) -> Problem:
    norms = np.random.default_rng(0).random((problem.num_layers, problem.num_heads))
    return replace(problem, norms=norms)


@pytest.mark.parametrize(("method", "problem"), thinned(METHODS, PROBLEMS))
def test_resumed_search_equals_the_uninterrupted_one(method: str, problem: str) -> None:
    name, parameters = METHODS[method]
    made = make_method(name, parameters)
    if not made.whole_model and PROBLEMS[problem]().layer_errors is None:
        with pytest.raises(UserError, match=f"{name} needs one fitness that is a sum over groups"):
            run_search(made, PROBLEMS[problem](), np.random.default_rng(0))
    else:
        check_every_cut(made, lambda: with_norms(PROBLEMS[problem]()))


def test_resumed_front_search_equals_the_uninterrupted_one() -> None:
    def problem() -> Problem:
        objectives: dict[str, Objective] = {"error": Entangled(2, 5, 0), "kv": kv_heads}
        return Problem(objectives, Budget((2, 3), 5), free_counts=True)

    check_every_cut(make_method("evolution", {**SMALL, "generations": 10}), problem)


@pytest.mark.parametrize("method", ["evolution", "exact"])
def test_resumed_front_of_a_sum_equals_the_uninterrupted_one(method: str) -> None:
    """Curves of all layers, then the whole front in a last generation of its own."""

    def problem() -> Problem:
        errors = tuple(PairwiseErrors(Pairwise(5, seed).distances) for seed in range(2))
        objectives: dict[str, Objective] = {"error": Entangled(2, 5, 0), "kv": kv_heads}
        return Problem(objectives, Budget((2, 3), 5), free_counts=True, layer_errors=errors)

    check_every_cut(make_method(method), problem)


def test_values_keep_their_bits(tmp_path: Path) -> None:
    def tiny(groupings: Any) -> Any:
        return np.array([float(np.nextafter(0.1, 1)) / (1 + max(g.layers[0].sizes)) - 1e-310 for g in groupings])

    found = []
    for _ in range(2):
        problem, log = logged(one_layer(tiny, 6, 2), tmp_path / "log.jsonl", Asked())
        with closing(log):
            found.append(next(iter(make_method("evolution").search(problem, np.random.default_rng(0)))).best)
    assert found[0] == found[1] and found[0].values[0].hex() == found[1].values[0].hex()


def test_a_search_that_time_ended_ends_there_again(tmp_path: Path) -> None:
    """However fast it is the second time."""
    slow = Problem({"error": Entangled(2, 7, 0)}, Budget((3, 3), 7))
    ends, seconds = [], [0.1, 0.2, 0.35]
    for known in (seconds, seconds[:2], []):
        problem, log = logged(slow, tmp_path / "log.jsonl", Asked(), known)
        with closing(log):
            limit = Limit(seconds=0.3 if known else 1e9)
            ends.append(
                len(list(run_search(make_method("evolution", SMALL), problem, np.random.default_rng(0), limit)))
            )
    assert ends[0] == 3 and ends[1] >= 3 and ends[2] == 7


def test_what_a_proof_came_to_is_recalled(tmp_path: Path) -> None:
    """No time at all was left for it; with plenty the second time it would come to more."""
    ends = []
    for limit in (0.0, 60.0):
        problem, log = logged(one_pairwise_layer(), tmp_path / "log.jsonl", Asked())
        with closing(log):
            ends.append(list(run_search(Exact(time_limit=limit), problem, np.random.default_rng(0))))
    assert ends[0] == ends[1]
    (*_, proven) = run_search(Exact(), one_pairwise_layer(), np.random.default_rng(0))
    assert proven.best.lower_bounds != ends[0][-1].best.lower_bounds


def one_pairwise_layer() -> Problem:
    errors = PairwiseErrors(Pairwise(12, 0).distances)
    return Problem({"error": errors.objective}, Budget((4,), 12), layer_errors=(errors,))


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("not JSON\n")
    with pytest.raises(UserError, match=r"is no log of evaluations .*; remove it to evaluate all anew"):
        logged(one_layer(SetFunction(5, 0), 5, 2), path, Asked())


def test_values_that_are_no_numbers_are_not_noted(tmp_path: Path) -> None:
    def bad(groupings: Sequence[Grouping]) -> FloatArray:
        return np.full(len(groupings), np.nan)

    problem, log = logged(one_layer(bad, 5, 2), tmp_path / "log.jsonl", Asked())
    with closing(log), pytest.raises(UserError, match="objective 'error' gave nan"):
        next(iter(make_method("random").search(problem, np.random.default_rng(0))))
    assert (tmp_path / "log.jsonl").read_text() == ""
