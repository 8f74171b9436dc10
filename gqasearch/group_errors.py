"""The error of one layer as a sum over groups: what local descent, exact methods and reports build on. Numpy only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.pairwise import FloatArray, IntArray, pairwise_errors

Group: TypeAlias = tuple[int, ...]
BatchedSetFunction: TypeAlias = Callable[[Sequence[Group]], Sequence[float]]


def mask_of(group: Sequence[int]) -> int:
    """The group as a bit mask."""
    return sum(1 << head for head in group)


def heads_of(mask: int) -> Group:
    """The inverse of ``mask_of``."""
    return tuple(head for head in range(mask.bit_length()) if mask >> head & 1)


def group_masks(labels: Sequence[int]) -> list[int]:
    """Bit masks of the groups, in the order of their first heads, so that sums have the same bits every time."""
    masks: dict[int, int] = {}
    for head, label in enumerate(labels):
        masks[label] = masks.get(label, 0) | 1 << head
    return list(masks.values())


class GroupErrors(ABC):
    """Error of a partition of one layer's ``num_heads`` heads: a sum over its groups; 0 for a single head."""

    def __init__(self, num_heads: int) -> None:
        self.num_heads = num_heads

    @abstractmethod
    def group_errors(self, groups: Sequence[Group]) -> list[float]:
        """Errors of many groups, each ascending."""

    def group_error(self, heads: Group) -> float:
        """Error of one group; ``heads`` ascending."""
        return self.group_errors([heads])[0]

    @abstractmethod
    def evaluate(self, labels: IntArray) -> FloatArray:
        """Errors, (N,), of partitions given as labels (N, H); each independent of the rows beside it."""

    def union_errors(self, groups: Sequence[Group]) -> FloatArray:
        """Errors, (G, G), of the union of every two groups; of the group itself on the diagonal."""
        unions = self.group_errors([tuple(sorted({*one, *two})) for one in groups for two in groups])
        return np.array(unions, dtype=np.float64).reshape(len(groups), len(groups))

    def objective(self, groupings: Sequence[Grouping]) -> FloatArray:
        """Errors, (N,), of groupings of this one layer."""
        return self.evaluate(np.array([grouping.layers[0].labels for grouping in groupings], dtype=np.int64))


class PairwiseErrors(GroupErrors):
    """A sum over pairs, 1/|S| sum_{i<j in S} D_ij; ``distances`` D is (H, H), symmetric, zero diagonal."""

    def __init__(self, distances: FloatArray) -> None:
        super().__init__(len(distances))
        if not np.isfinite(distances).all():
            raise UserError("the fitness gave distances between heads that are not finite")
        self.distances = distances

    def group_errors(self, groups: Sequence[Group]) -> list[float]:
        indices = map(np.asarray, groups)
        return [float(self.distances[np.ix_(index, index)].sum()) / (2 * len(index)) for index in indices]

    def evaluate(self, labels: IntArray) -> FloatArray:
        return pairwise_errors(self.distances, labels)

    def union_errors(self, groups: Sequence[Group]) -> FloatArray:
        member = np.zeros((len(groups), self.num_heads))
        for row, group in enumerate(groups):
            member[row, list(group)] = 1
        between, sizes = member @ self.distances @ member.T, member.sum(axis=1)
        inner = np.diagonal(between) / 2
        unions = (inner[:, None] + inner + between) / (sizes[:, None] + sizes)
        np.fill_diagonal(unions, inner / sizes)
        return np.asarray(unions)


class SetErrors(GroupErrors):
    """Any set function; computed once per group and kept by bit mask.

    ``function``: errors of many groups at once, each independent of the others beside it. ``known``: the one memo of
    these errors, shared by all that ask for them. ``where``: of messages.
    """

    def __init__(
        self, num_heads: int, function: BatchedSetFunction, known: dict[int, float] | None = None, where: str = ""
    ) -> None:
        super().__init__(num_heads)
        self._function, self._where = function, where
        self.known = {} if known is None else known
        self.known.update((1 << head, 0.0) for head in range(num_heads))

    def group_errors(self, groups: Sequence[Group]) -> list[float]:
        return self.mask_errors([sum(1 << head for head in heads) for heads in groups])

    def mask_errors(self, masks: Sequence[int]) -> list[float]:
        """Errors of the groups whose heads are the bits of these; those not known yet are asked for together."""
        missing = [mask for mask in dict.fromkeys(masks) if mask not in self.known]
        if missing:
            groups = list(map(heads_of, missing))
            for mask, heads, value in zip(missing, groups, map(float, self._function(groups)), strict=True):
                if not np.isfinite(value):
                    raise UserError(f"the fitness gave {value} for heads {list(heads)} {self._where}".rstrip())
                self.known[mask] = value
        return [self.known[mask] for mask in masks]

    def evaluate(self, labels: IntArray) -> FloatArray:
        rows = [group_masks(row) for row in labels.tolist()]
        self.mask_errors([mask for row in rows for mask in row])  # all at once, kept
        return np.array([sum(self.mask_errors(row)) for row in rows], dtype=np.float64)
