"""Problems whose evaluations are noted in a log, and answered from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gqasearch.contract import PreparedFitness, PreparedGroupFitness, PreparedTextFitness
from gqasearch.group_errors import Group, GroupErrors, SetErrors
from gqasearch.grouping import Grouping
from gqasearch.searching import Objective, Problem
from gqasearch.searching.evaluation_log import EvaluationLog
from gqasearch.searching.problem import Clock, FloatArray

Asked = list[tuple[object, ...]]


class Function(PreparedFitness):
    """An objective; notes in ``asked`` what it is asked itself."""

    def __init__(self, objective: Objective, asked: Asked) -> None:
        self.objective, self.asked = objective, asked

    def evaluate(self, groupings: Sequence[Grouping]) -> FloatArray:
        self.asked += [("whole", grouping) for grouping in groupings]
        return self.objective(groupings)


class Text(Function, PreparedTextFitness):
    """One that is measured on text."""

    def __init__(self, problem: Problem, asked: Asked) -> None:
        super().__init__(next(iter(problem.objectives.values())), asked)
        assert problem.partial is not None
        self.partial, self.final, self.batch_tokens = problem.partial, problem.final, problem.partial.batch_tokens

    def evaluate_batches(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        self.asked += [(tuple(batches), grouping) for grouping in groupings]
        return self.partial.evaluate_batches(groupings, batches)

    def evaluate_refined(self, groupings: Sequence[Grouping]) -> FloatArray:
        assert self.final is not None
        self.asked += [("refined", grouping) for grouping in groupings]
        return self.final(groupings)


class Sums(PreparedGroupFitness):
    """Errors of groups, layer by layer."""

    def __init__(self, layers: Sequence[GroupErrors], asked: Asked) -> None:
        self.layers, self.asked = layers, asked

    def compute_group_error(self, layer: int, heads: Group) -> float:
        self.asked.append((layer, heads))
        return self.layers[layer].group_error(heads)


def logged(problem: Problem, path: Path, asked: Asked, seconds: Sequence[float] = ()) -> tuple[Problem, EvaluationLog]:
    """The same problem with a log in ``path``; ``asked``: what its functions were asked in spite of that."""
    log = EvaluationLog(path, seconds)

    def sums(name: str, layers: tuple[GroupErrors, ...] | None) -> tuple[GroupErrors, ...] | None:
        if layers is None or not isinstance(layers[0], SetErrors):
            return layers
        found = log.of(name, Sums(layers, asked))
        assert isinstance(found, PreparedGroupFitness)
        return tuple(found.layer_errors(layer, errors.num_heads) for layer, errors in enumerate(layers))

    problem = replace(
        problem,
        layer_errors=sums("error", problem.layer_errors),
        guide=sums("guide", problem.guide),
        clock=Clock(seconds),
        recall=log.recall,
    )
    if problem.layer_errors is not None:
        return problem, log
    (name, objective), *others = problem.objectives.items()
    if problem.partial is None:
        first = log.of(name, Function(objective, asked))
        return replace(problem, objectives={name: first.evaluate, **dict(others)}), log
    text = log.of(name, Text(problem, asked))
    assert isinstance(text, PreparedTextFitness)
    final = None if problem.final is None else text.evaluate_refined
    return replace(problem, objectives={name: text.evaluate, **dict(others)}, partial=text, final=final), log
