"""Local descent for errors that are a sum over groups: the memetic part of the evolution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from gqasearch.group_errors import SetErrors, group_masks, heads_of
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching.record import Individual, Record
from gqasearch.searching.walk import LEAST_GAIN


class GroupDescent:
    """Takes individuals of a one-layer problem to better neighbours, a swap or a move away.

    What a swap or a move gains depends on the two groups it touches and on nothing else. So a pair of groups
    that had no gain in one individual is skipped in every other one that holds both: children inherit
    whole groups, and with them this knowledge. Every neighbour whose two new groups were looked up counts as an
    evaluation of the record; groups are bit masks.
    """

    def __init__(self, record: Record, errors: SetErrors, rng: np.random.Generator) -> None:
        self._record = record
        self._errors = errors
        self._rng = rng
        self._settled: set[tuple[int, int]] = set()

    def descend(self, starts: Sequence[Individual], steps: int) -> list[Individual]:
        """Where the descents from ``starts`` end, after at most ``steps`` steps each; none is worse than its start."""
        return [self._descend(start, steps) for start in starts]

    def _descend(self, start: Individual, steps: int) -> Individual:
        masks = group_masks(start.grouping.layers[0].labels)
        taken = 0
        while taken < steps and self._step(masks):
            taken += 1
        if not taken:
            return start
        # The limit on evaluations may leave no room for the end.
        return (self._record.evaluate([Grouping((LayerGrouping.from_groups(map(heads_of, masks)),))]) or [start])[0]

    def _step(self, masks: list[int]) -> bool:
        """Take the best step of the first pair of groups, in random order, that has one; False when none has."""
        pairs = [(i, j) for i, j in combinations(range(len(masks)), 2) if _key(masks[i], masks[j]) not in self._settled]
        for chosen in self._rng.permutation(len(pairs)).tolist():
            i, j = pairs[chosen]
            options = self._neighbours(masks[i], masks[j])
            if not self._record.charge(len(options)):
                return False
            before, *after = self._sums([(masks[i], masks[j]), *options])
            if after and before - min(after) > LEAST_GAIN * abs(before):
                masks[i], masks[j] = options[after.index(min(after))]
                return True
            self._settled.add(_key(masks[i], masks[j]))
        return False

    def _sums(self, pairs: Sequence[tuple[int, int]]) -> list[float]:
        """Summed error of the two groups of each pair; one call for all, which costs less than one by one."""
        errors = self._errors.mask_errors([mask for pair in pairs for mask in pair])
        return [one + two for one, two in zip(errors[::2], errors[1::2], strict=True)]

    def _neighbours(self, one: int, two: int) -> list[tuple[int, int]]:
        """What swaps and moves between two groups make of them, bounds kept."""
        budget = self._record.problem.budget
        first, second = _bits(one), _bits(two)
        lone = len(first) == len(second) == 1
        options = [] if lone else [(one ^ a ^ b, two ^ a ^ b) for a in first for b in second]
        for giver, taker in ((first, second), (second, first)):
            if len(giver) > budget.smallest_group and len(taker) < budget.largest:
                options += [(one ^ head, two ^ head) for head in giver]
        return options


def _bits(mask: int) -> list[int]:
    """The single bits of a mask."""
    return [1 << head for head in range(mask.bit_length()) if mask >> head & 1]


def _key(one: int, two: int) -> tuple[int, int]:
    """A pair of groups, whatever their order."""
    return (one, two) if one < two else (two, one)
