"""Local descent by a model of what groups cost, and by their errors where the model sees promise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from gqasearch.group_errors import SetErrors, mask_of
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching.evolution.asked import AskedErrors
from gqasearch.searching.evolution.draft import Draft, Step
from gqasearch.searching.evolution.group_model import GroupModel
from gqasearch.searching.record import Individual, Record
from gqasearch.searching.walk import LEAST_GAIN

# Steps of a descent in the model; each is drawn from so many of the best, so that relatives end apart, and gains at
# least such a part of what its two groups cost.
MODEL_STEPS, DRAWN, LEAST_MODEL_GAIN = 100, 4, 1e-4
# Nobody asks for groups that the model expects to cost more than those they replace by more than this part.
SLACK = 0.03
# Of the steps that promise most, so many are gone through for every one that is looked at.
RANKED = 8


class ScreenedDescent:
    """As ``GroupDescent``; the model ranks all swaps and moves from a partition, and few groups are asked for.

    ``looks``: of the steps that promise most, so many are tried whose groups were not asked for before; any whose
    groups were are tried, too. ``model`` follows what was asked for when told to ``learn``.
    """

    def __init__(self, record: Record, errors: SetErrors, looks: int) -> None:
        self.asked = AskedErrors(errors)
        self.model = GroupModel(np.zeros((errors.num_heads, errors.num_heads)))
        self._record, self._looks = record, looks
        # How many groups were asked for when the model learnt last.
        self._learnt = 0

    def ask_pairs(self) -> None:
        """What the model starts from."""
        self.asked.ask(list(map(mask_of, combinations(range(self._record.problem.num_heads), 2))))

    def learn(self) -> None:
        """Fit the model to what was asked for since it learnt last, all pairs of heads first.

        Fits add up; the same groups learnt in other parts would round otherwise.
        """
        if self._learnt == len(self.asked):
            return
        members, errors = self.asked.table(self._learnt)
        if not self._learnt:
            table = (members * errors[:, None]).T @ members
            np.fill_diagonal(table, 0.0)
            self.model = GroupModel(table)
        else:
            self.model.fit(members, errors)
        self._learnt = len(self.asked)

    def draft(self, layer: LayerGrouping) -> Draft:
        """``layer``, priced by what is known and by the model."""
        return Draft(layer, self.model, self.asked, self._record.problem.budget)

    def by_model(self, layer: LayerGrouping, rng: np.random.Generator) -> Draft:
        """Where a descent in the model ends; nothing is asked for."""
        draft = self.draft(layer)
        for _ in range(MODEL_STEPS):
            steps = [
                step for step in draft.best_steps(DRAWN) if step.rise < -LEAST_MODEL_GAIN * abs(draft.cost_before(step))
            ]
            total = draft.total
            if steps:
                draft.take(steps[int(rng.integers(len(steps)))])
            if not draft.total < total:  # no step, or one that a known error belies
                break
        return draft

    def descend(self, starts: Sequence[Individual], steps: int) -> list[Individual]:
        """Where the descents from ``starts`` end, after at most ``steps`` steps each; none is worse than its start."""
        return [self._descend(start, steps) for start in starts]

    def _descend(self, start: Individual, steps: int) -> Individual:
        draft = self.draft(start.grouping.layers[0])
        taken = 0
        while taken < steps and (step := self._step(draft)) is not None:
            draft.take(step)
            taken += 1
        # The limit on evaluations may leave no room for the end.
        return (self._record.evaluate([Grouping((draft.layer,))]) or [start])[0] if taken else start

    def _step(self, draft: Draft) -> Step | None:
        """The step that lowers the error most, of those tried; None where none does."""
        tried, new = self._promising(draft)
        if not tried or not self._record.charge(len(tried)) or not self.asked.ask(new):
            return None
        gains = [draft.cost_before(step) - sum(map(self.asked.known, draft.masks_after(step))) for step in tried]
        best = gains.index(max(gains))
        return tried[best] if gains[best] > LEAST_GAIN * abs(draft.cost_before(tried[best])) else None

    def _promising(self, draft: Draft) -> tuple[list[Step], list[int]]:
        """CountedRun to try, and the groups to be asked for first."""
        tried, new, looks = list[Step](), list[int](), 0
        for step in draft.best_steps(RANKED * self._looks):
            if step.rise > SLACK * abs(draft.cost_before(step)):
                break
            unknown = [mask for mask in draft.masks_after(step) if self.asked.get(mask) is None]
            if unknown and looks == self._looks:
                continue
            looks += bool(unknown)
            tried.append(step)
            new += unknown
        return tried, new
