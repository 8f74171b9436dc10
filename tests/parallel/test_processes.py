"""Plain processes give one process's bits, also when they die."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from gqasearch.errors import UserError
from gqasearch.fitness import PreparedFitness, PreparedGroupFitness, PreparedTextFitness
from gqasearch.grouping import Grouping
from gqasearch.parallel import Blueprint, Evaluator, Workers, parse_workers, spread_fitness, start_workers
from gqasearch.searching import FAILED
from tests import forked
from tests.matrix import sampled
from tests.parallel.plugins import Faulty, code

Prepared = dict[str, PreparedFitness]


@pytest.fixture(scope="module")
def evaluator(
    blueprint: Blueprint, groupings: list[Grouping], tmp_path_factory: pytest.TempPathFactory, nightly: bool
) -> Iterator[Evaluator]:
    """Two processes, for all tests of this file; the second candidate kills whoever has it first."""
    codes = [code(grouping) for grouping in groupings]
    faulty = {
        "once": Faulty(deadly=(codes[1],), mark=str(tmp_path_factory.mktemp("once"))),
        "deadly": Faulty(deadly=(codes[5],)),
        "faulty": Faulty(refused=codes[3], broken=codes[7]),
    }
    plan = replace(blueprint, fitnesses=blueprint.fitnesses | faulty)
    with forked.for_spawned(nightly), start_workers(Workers(2), plan) as found:
        yield found


def text_fitness(prepared: Prepared, name: str) -> PreparedTextFitness:
    found = prepared[name]
    assert isinstance(found, PreparedTextFitness)
    return found


@pytest.mark.parametrize("name", sampled(["kl", "perplexity", "healed-kl"], ["kl", "perplexity"]))
def test_values_have_the_bits_of_one_process(
    name: str, evaluator: Evaluator, alone: Prepared, groupings: Sequence[Grouping]
) -> None:
    spread, one = text_fitness(spread_fitness(evaluator), name), text_fitness(alone, name)
    assert spread.batch_tokens == one.batch_tokens and len(one.batch_tokens) > 1
    twice = [*groupings, groupings[0]]
    assert spread.evaluate_batches(groupings[:9], [1]).tolist() == one.evaluate_batches(groupings[:9], [1]).tolist()
    assert spread.evaluate(twice).tolist() == one.evaluate(twice).tolist()
    assert spread.evaluate_refined(groupings[:3]).tolist() == one.evaluate_refined(groupings[:3]).tolist()
    assert spread.evaluate([]).shape == (0,)


def test_errors_of_groups_have_the_bits_of_one_process(evaluator: Evaluator, alone: Prepared) -> None:
    spread, one = (found["attention-output-error"] for found in (spread_fitness(evaluator), alone))
    assert isinstance(spread, PreparedGroupFitness) and isinstance(one, PreparedGroupFitness)
    groups = [(0, 1), (2, 5), (1, 3, 4), (2,)]
    assert spread.group_errors(1, groups) == one.group_errors(1, groups)


def test_errors_come_back_as_they_are(evaluator: Evaluator, groupings: list[Grouping]) -> None:
    faulty = spread_fitness(evaluator)["faulty"]
    with pytest.raises(UserError, match="is not allowed") as refused:
        faulty.evaluate(groupings[:4])
    assert "In a worker:" in refused.value.__notes__[0]
    with pytest.raises(RuntimeError, match=r"UnsendableError: .* is broken"):
        faulty.evaluate(groupings[4:8])
    evaluator.settle()
    assert not evaluator.failures and evaluator.workers == 2


def test_a_killed_worker_changes_nothing(
    evaluator: Evaluator, alone: Prepared, groupings: list[Grouping], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = spread_fitness(evaluator)["once"].evaluate(groupings)
    assert found.tolist() == alone["faulty"].evaluate(groupings).tolist()
    assert "a worker died" in caplog.text and not evaluator.failures


def test_a_candidate_that_kills_its_worker_twice_has_failed(
    evaluator: Evaluator, alone: Prepared, groupings: list[Grouping], caplog: pytest.LogCaptureFixture
) -> None:
    four = groupings[4:8]
    with caplog.at_level(logging.WARNING):
        found = spread_fitness(evaluator)["deadly"].evaluate(four)
    wanted = alone["faulty"].evaluate(four)
    wanted[1] = FAILED
    assert found.tolist() == wanted.tolist() and np.isfinite(found).all()
    assert len(evaluator.failures) == 1 and "deadly killed its worker 2 times" in evaluator.failures[0]
    assert str([list(group) for group in four[1].layers[0].groups]) in caplog.text


@pytest.mark.parametrize("given", ["0", "-1", "two", "ray:", "ray://", "1.5", ""])
def test_numbers_of_workers_that_mean_nothing_are_refused(given: str) -> None:
    with pytest.raises(UserError, match="a number of processes"):
        parse_workers(given)
