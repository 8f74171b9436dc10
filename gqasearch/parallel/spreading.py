"""Prepared fitness functions whose work is done elsewhere; everything above them is as with one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gqasearch.contract import PreparedFitness, Question, answered
from gqasearch.errors import UserError
from gqasearch.parallel.evaluator import Evaluator


def spread_fitness(evaluator: Evaluator) -> dict[str, PreparedFitness]:
    """Every fitness of the evaluator's blueprint; raises ``UserError`` for one that there is nothing to spread of."""

    def answer(question: Question, items: Sequence[Any]) -> Sequence[float]:
        # A group that no worker survives is an error: no sum has room for it.
        found: list[float] = evaluator.values(question, items, may_fail=question.about != "groups").tolist()
        return found

    for name, facts in evaluator.facts.items():
        if facts.kind == "pairwise":
            raise UserError(
                f"fitness {name} gives the distances of every two heads, once for a layer; there is nothing to spread "
                "over workers: leave --workers out"
            )
    return {name: answered(name, facts, answer) for name, facts in evaluator.facts.items()}
