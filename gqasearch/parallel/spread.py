"""Prepared fitness functions whose work is done elsewhere; everything above them is as with one process."""

from __future__ import annotations

from collections.abc import Sequence

from gqasearch.errors import UserError
from gqasearch.fitness import PreparedFitness, PreparedGroupFitness, PreparedTextFitness
from gqasearch.grouping import Grouping
from gqasearch.pairwise import FloatArray
from gqasearch.parallel.evaluator import Evaluator
from gqasearch.parallel.questions import Facts, OfGroups, OnBatches, Refined, Whole


class SpreadFitness(PreparedFitness):
    """Any function of whole groupings."""

    def __init__(self, name: str, evaluator: Evaluator) -> None:
        self.name, self.evaluator = name, evaluator

    def evaluate(self, groupings: Sequence[Grouping]) -> FloatArray:
        return self.evaluator.values(Whole(self.name), groupings)


class SpreadTextFitness(PreparedTextFitness):
    """One that runs the model on text."""

    def __init__(self, name: str, evaluator: Evaluator, facts: Facts) -> None:
        self.name, self.evaluator = name, evaluator
        self.batch_tokens = facts.batch_tokens

    def evaluate(self, groupings: Sequence[Grouping]) -> FloatArray:
        return self.evaluator.values(Whole(self.name), groupings)

    def evaluate_batches(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        return self.evaluator.values(OnBatches(self.name, tuple(batches)), groupings)

    def evaluate_refined(self, groupings: Sequence[Grouping]) -> FloatArray:
        return self.evaluator.values(Refined(self.name), groupings)


class SpreadGroupFitness(PreparedGroupFitness):
    """A sum over groups, spread group by group. One that no worker survives is an error: no sum has room for it."""

    def __init__(self, name: str, evaluator: Evaluator) -> None:
        super().__init__()
        self.name, self.evaluator = name, evaluator

    def compute_group_error(self, layer: int, heads: tuple[int, ...]) -> float:
        return self.compute_group_errors(layer, [heads])[0]

    def compute_group_errors(self, layer: int, groups: Sequence[tuple[int, ...]]) -> list[float]:
        found = self.evaluator.values(OfGroups(self.name, layer), groups, may_fail=False)
        return [float(value) for value in found]


def spread_fitness(evaluator: Evaluator) -> dict[str, PreparedFitness]:
    """Every fitness of the evaluator's blueprint; raises ``UserError`` for one that there is nothing to spread of."""
    found: dict[str, PreparedFitness] = {}
    for name, facts in evaluator.facts.items():
        if facts.kind == "text":
            found[name] = SpreadTextFitness(name, evaluator, facts)
        elif facts.kind == "group":
            found[name] = SpreadGroupFitness(name, evaluator)
        elif facts.kind == "model":
            found[name] = SpreadFitness(name, evaluator)
        else:
            raise UserError(
                f"fitness {name} gives the distances of every two heads, once for a layer; there is nothing to spread "
                "over workers: leave --workers out"
            )
    return found
