"""AsymGQA: a walk for every layer in turn, over real evaluations, guided by the similarity of heads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.pairwise import FloatArray
from gqasearch.searching._base import HeadFact, SearchMethod
from gqasearch.searching.operators import exchange, random_partition, relocate
from gqasearch.searching.problem import Generation, Problem
from gqasearch.searching.record import Record
from gqasearch.searching.starts import neighbour_grouping


@dataclass(frozen=True)
class AsymGQA(SearchMethod):
    """Random partition, then ``iterations`` (n) steps, in every layer from first to last.

    A step restarts from a new random partition with chance ``reset_rate`` (p_reset). Otherwise it picks a head and
    one of the ``neighbours`` (k) most similar heads outside of its group, and proposes that they change places
    or, if ``asymmetric``, as often that the head goes to the other's group, where that empties no group and
    keeps the bounds on sizes. The proposal is taken if its score is lower, else with chance ``accept_rate``
    (p_acc). The layer becomes the best partition met. Without ``asymmetric`` sizes differ by at most one.

    The score is the objective of the whole grouping: layers before are as found, layers after still MHA. The
    similarity of keys and values (``Problem.similarity``) proposes and decides nothing. ``budget.counts`` are
    kept, also where the budget could move between layers.

    Partitions met with MHA behind them are beyond the budget. So neighbour grouping is evaluated first and, after
    every layer, the layers found with neighbours behind them: L evaluations beside the L (1 + n) of the walks.
    The answer is the best of these and of the last walk. One generation is one step.

    Swap or move by a fair coin, and a restart that counts as a step, are ours where the outline leaves it open.
    """

    name: ClassVar[str] = "asymgqa"
    reference: ClassVar[str] = "https://arxiv.org/abs/2406.14963"
    summary: ClassVar[str] = "AsymGQA: layer by layer, swaps and moves to similar heads, each really evaluated"
    by_layer: ClassVar[bool] = False
    needs: ClassVar[frozenset[HeadFact]] = frozenset({"similarity"})

    iterations: int = 10
    neighbours: int = 3
    reset_rate: float = 0.1
    accept_rate: float = 0.1
    asymmetric: bool = True

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.neighbours < 1:
            given = f"{self.iterations} and {self.neighbours}"
            raise UserError(f"asymgqa: iterations must be at least 0 and neighbours at least 1, got {given}")
        for name in ("reset_rate", "accept_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"asymgqa: {name} is a chance, 0 to 1, got {getattr(self, name)}")

    def search(self, problem: Problem, rng: np.random.Generator) -> Iterator[Generation]:
        if problem.free_counts or len(problem.objectives) > 1:
            raise UserError("method asymgqa keeps the number of groups of every layer and takes one objective")
        return _Walks(self, problem, _checked(problem), rng).generations()

    def most_generations(self, problem: Problem) -> int:
        """The neighbours, then for every layer its start, its iterations and the model so far."""
        return 1 + problem.num_layers * (self.iterations + 2)


def propose(
    layer: LayerGrouping, similarity: FloatArray, method: AsymGQA, problem: Problem, rng: np.random.Generator
) -> LayerGrouping:
    """A random head swapped with, or moved to, one of the most similar heads outside of its group.

    ``similarity``: (H, H), higher is more similar. The layer itself when both heads are alone in their groups.
    """
    head = int(rng.integers(layer.num_heads))
    others = np.flatnonzero(np.array(layer.labels) != layer.labels[head])
    order = np.argsort(-similarity[head, others], kind="stable")
    nearest = others[order[: method.neighbours]].tolist()
    other: int = nearest[int(rng.integers(len(nearest)))]
    taker = layer.labels[other]
    may_move = layer.sizes[layer.labels[head]] > problem.budget.smallest_group
    may_move &= layer.sizes[taker] < problem.budget.largest
    if method.asymmetric and may_move and rng.random() < 0.5:
        return relocate(layer, head, taker)
    return exchange(layer, head, other)


class _Walks:
    """The layers found, and the walk in progress: ``here``, its partition and score."""

    def __init__(self, method: AsymGQA, problem: Problem, similarity: FloatArray, rng: np.random.Generator) -> None:
        self.method, self.problem, self.similarity, self.rng = method, problem, similarity, rng
        self.record = Record(problem)
        self.found: list[LayerGrouping] = []
        self.here: tuple[LayerGrouping, float]
        # Best grouping within the budget; neighbours first.
        self.neighbours = neighbour_grouping(problem)
        self.best = self.record.evaluate([self.neighbours])[0].candidate
        self.index = -1

    @property
    def layer(self) -> int:
        return len(self.found)

    def generations(self) -> Iterator[Generation]:
        """One evaluation at most in each: the neighbours; then the start of a walk, a step of it, or its end."""
        yield self._generation()
        for count in self.problem.budget.counts:
            has_choice = 1 < count < self.problem.num_heads  # else one partition alone has this number of groups
            is_last = self.layer == self.problem.num_layers - 1
            lowest = self.here = self._begin(has_choice)
            for step in range(1 + self.method.iterations * has_choice):
                if step:
                    self.here = self._step(*self.here)
                    lowest = self.here if self.here[1] < lowest[1] else lowest
                if is_last:
                    self._consider((lowest[0],))
                yield self._generation()
            self.found.append(lowest[0])
            self._consider(self.neighbours.layers[self.layer :])
            yield self._generation()

    def _generation(self) -> Generation:
        self.index += 1
        return Generation(self.index, self.record.evaluations, self.best, (self.best,))

    def _begin(self, has_choice: bool) -> tuple[LayerGrouping, float]:
        layer = self._random()
        return layer, self._score(layer) if has_choice else 0.0

    def _step(self, here: LayerGrouping, score: float) -> tuple[LayerGrouping, float]:
        if self.rng.random() < self.method.reset_rate:
            layer = self._random()
            return layer, self._score(layer)
        proposal = propose(here, self.similarity[self.layer], self.method, self.problem, self.rng)
        proposed = self._score(proposal)
        taken = proposed < score or self.rng.random() < self.method.accept_rate
        return (proposal, proposed) if taken else (here, score)

    def _random(self) -> LayerGrouping:
        budget, count = self.problem.budget, self.problem.budget.counts[self.layer]
        if self.method.asymmetric:
            return random_partition(count, budget, self.rng)
        runs = np.array(LayerGrouping.neighbours(budget.num_heads, count).labels)
        return LayerGrouping.from_labels(self.rng.permutation(runs).tolist())

    def _score(self, layer: LayerGrouping) -> float:
        """Objective with this layer after those found, MHA behind it."""
        behind = self.problem.num_layers - self.layer - 1
        singletons = LayerGrouping.singletons(self.problem.num_heads)
        grouping = Grouping((*self.found, layer, *(singletons,) * behind))
        return self.record.evaluate([grouping])[0].candidate.values[0]

    def _consider(self, behind: tuple[LayerGrouping, ...]) -> None:
        """Evaluate the layers found with these behind them, unless it was, and keep it if it is the best."""
        candidate = self.record.evaluate([Grouping((*self.found, *behind))])[0].candidate
        if candidate.values < self.best.values:
            self.best = candidate


def _checked(problem: Problem) -> FloatArray:
    """The similarity, of the right shape and finite."""
    shape = problem.num_layers, problem.num_heads, problem.num_heads
    if problem.similarity is None or problem.similarity.shape != shape or not np.isfinite(problem.similarity).all():
        given = None if problem.similarity is None else problem.similarity.shape
        raise UserError(f"method asymgqa needs a finite similarity of the heads of shape {shape}, got {given}")
    return problem.similarity
