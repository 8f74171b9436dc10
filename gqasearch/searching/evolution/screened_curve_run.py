"""A curve from few groups: a model of what groups cost says whose errors are worth asking for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gqasearch.group_errors import SetErrors, mask_of
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching.evolution.curve_run import CurveRun
from gqasearch.searching.evolution.evolution_parameters import EvolutionParameters
from gqasearch.searching.evolution.screened_descent import ScreenedDescent
from gqasearch.searching.operators import repair
from gqasearch.searching.problem import Problem
from gqasearch.searching.record import Individual

# A child is evaluated where the model expects at most this part more than the best of its niche, and descends by
# errors where it has that.
NEAR = 0.02
# Children bred for each that may be evaluated, those that promise most.
BRED = 2
# Merges and splits from beside for a niche.
FROM_BESIDE = 3
# Niches rest after so many generations without a better partition, if not after ``patience``: all of a niche's children
# have seen the model's best neighbours.
REST = 6


class ScreenedCurveRun(CurveRun):
    """Children descend in the model, which costs no group; the most promising are evaluated and descend by errors.

    Asks for all pairs, the groups of one agglomeration by the model, then for what the chain of merges and the
    generations find worth it; ``max_groups`` ends the generations. Every error in a result was asked for. The model is
    fitted to what this run asked for alone, so what others asked for changes nothing.
    """

    screen: ScreenedDescent

    def __init__(self, method: EvolutionParameters, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(method, problem, rng)
        self.toolbox.register("evaluate", self._evaluate)

    def _make_descent(self) -> ScreenedDescent:
        if not isinstance(self.errors, SetErrors):
            raise ValueError("errors of groups are screened only where each has to be computed")
        self.screen = ScreenedDescent(self.record, self.errors, self.method.looks)
        return self.screen

    @property
    def is_done(self) -> bool:
        return self.screen.asked.is_full or super().is_done

    def start(self) -> None:
        """Generation 0: the chain of merges."""
        self.screen.ask_pairs()
        self.screen.learn()
        self.screen.asked.ask(list(self._agglomerated()))
        self.screen.learn()
        self._survive(list(self._chain()))
        self.screen.asked.limit = self.method.max_groups

    def advance(self) -> None:
        """One generation; there may be another where this one evaluated nothing."""
        self.screen.learn()
        super().advance()
        self.exhausted = not any(map(self._is_bred, self.counts))

    def _agglomerated(self) -> Iterator[int]:
        """Groups of all sizes, so that the model need not guess how errors grow with size."""
        layer = LayerGrouping.singletons(self.problem.num_heads)
        while merges := self.screen.draft(layer).best_merges(1):
            (merged,) = merges
            yield from (mask_of(group) for group in set(merged.groups) - set(layer.groups))
            layer = merged

    def _chain(self) -> Iterator[Individual]:
        """From the most groups to the fewest: of the merges that promise most the best, each after descents."""
        layer = LayerGrouping.neighbours(self.problem.num_heads, self.counts[-1])
        found = self.toolbox.evaluate([Grouping((layer,))])
        for count in [*reversed(self.counts[:-1]), 0]:
            if not found:
                return
            best = self.toolbox.select(self.toolbox.descend(found), 1)[0]
            yield best
            layer = best.grouping.layers[0]
            starts = self.screen.draft(layer).best_merges(FROM_BESIDE)
            if count and not starts:
                starts = [repair(layer.groups, count, self.problem.budget, self.rng)]
            found = self.toolbox.evaluate([Grouping((self.screen.by_model(one, self.rng).layer,)) for one in starts])
            self.screen.learn()

    def _evaluate(self, groupings: Sequence[Grouping]) -> list[Individual]:
        """Evaluate those whose groups the limit leaves room for."""
        asked = [one for one in groupings if self.screen.asked.ask(list(map(mask_of, one.layers[0].groups)))]
        return self.record.evaluate(asked)

    def _breed(self, count: int, niches: dict[int, list[Individual]], children: dict[Grouping, None]) -> None:
        """Add the ``niche`` most promising of new partitions, where these promise enough."""
        bred: dict[Grouping, float] = {}
        for start in [*self._from_beside(count, niches), *self._crossed(count, niches, BRED * self.method.niche)]:
            draft = self.screen.by_model(start.layers[0], self.rng)
            child = Grouping((draft.layer,))
            if child not in self.record:
                bred[child] = draft.total
        best = sorted(bred, key=bred.__getitem__)[: self.method.niche]
        children.update(dict.fromkeys(child for child in best if bred[child] <= _near(niches[count][0])))

    def _from_beside(self, count: int, niches: dict[int, list[Individual]]) -> Iterator[Grouping]:
        """Merges of the best above and splits of the best below, where these are new."""
        for other in (count + 1, count - 1):
            if niches.get(other) and self.idle_niches[other] == 0:
                draft = self.screen.draft(niches[other][0].grouping.layers[0])
                made = draft.best_merges(FROM_BESIDE) if other > count else draft.best_splits(FROM_BESIDE)
                yield from (Grouping((layer,)) for layer in made)

    def _is_bred(self, count: int) -> bool:
        return self._quiet(count) < REST and super()._is_bred(count)

    def _refine(self, children: list[Individual]) -> list[Individual]:
        """The children, those that are near the best of their niche replaced by where their descent ends."""
        niches = self._niches(self.population)
        near = [
            child for child in children if child.candidate.values[0] <= _near(niches[child.grouping.kv_heads_total][0])
        ]
        others = {child.index for child in children} - {child.index for child in near}
        return [child for child in children if child.index in others] + super()._refine(near)


def _near(best: Individual) -> float:
    """The largest error that counts as near the best."""
    error: float = best.candidate.values[0]
    return error + NEAR * abs(error)
