"""The error of one layer as a sum over groups: what local descent and exact methods build on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.pairwise import FloatArray, IntArray, pairwise_errors

SetFunction: TypeAlias = Callable[[tuple[int, ...]], float]


class GroupErrors(ABC):
    """Error of a partition of ``num_heads`` heads: a sum over its groups; 0 for a single head."""

    def __init__(self, num_heads: int) -> None:
        self.num_heads = num_heads

    @abstractmethod
    def group_error(self, heads: tuple[int, ...]) -> float:
        """Error of one group; ``heads`` ascending."""

    @abstractmethod
    def evaluate(self, labels: IntArray) -> FloatArray:
        """Errors, (N,), of partitions given as labels (N, H); each independent of the rows beside it."""

    def union_errors(self, groups: Sequence[tuple[int, ...]]) -> FloatArray:
        """Errors, (G, G), of the union of every two groups; of the group itself on the diagonal."""
        unions = [[self.group_error(tuple(sorted({*one, *two}))) for two in groups] for one in groups]
        return np.array(unions, dtype=np.float64)

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

    def group_error(self, heads: tuple[int, ...]) -> float:
        index = np.asarray(heads)
        return float(self.distances[np.ix_(index, index)].sum()) / (2 * len(heads))

    def evaluate(self, labels: IntArray) -> FloatArray:
        return pairwise_errors(self.distances, labels)

    def union_errors(self, groups: Sequence[tuple[int, ...]]) -> FloatArray:
        member = np.zeros((len(groups), self.num_heads))
        for row, group in enumerate(groups):
            member[row, list(group)] = 1
        between, sizes = member @ self.distances @ member.T, member.sum(axis=1)
        inner = np.diagonal(between) / 2
        unions = (inner[:, None] + inner + between) / (sizes[:, None] + sizes)
        np.fill_diagonal(unions, inner / sizes)
        return np.asarray(unions)


class SetErrors(GroupErrors):
    """Any set function; computed once per group and kept by bit mask."""

    def __init__(self, num_heads: int, function: SetFunction) -> None:
        super().__init__(num_heads)
        self._function = function
        self._known: dict[int, float] = {1 << head: 0.0 for head in range(num_heads)}

    def group_error(self, heads: tuple[int, ...]) -> float:
        return self.mask_error(sum(1 << head for head in heads))

    def mask_error(self, mask: int) -> float:
        """Error of the group whose heads are the bits of ``mask``."""
        known = self._known.get(mask)
        if known is None:
            heads = tuple(head for head in range(self.num_heads) if mask >> head & 1)
            known = float(self._function(heads))
            if not np.isfinite(known):
                raise UserError(f"the fitness gave {known} for heads {list(heads)}")
            self._known[mask] = known
        return known

    def evaluate(self, labels: IntArray) -> FloatArray:
        return np.array([sum(map(self.mask_error, group_masks(row))) for row in labels.tolist()], dtype=np.float64)


def group_masks(labels: Sequence[int]) -> list[int]:
    """Bit masks of the groups, in the order of their first heads, so that sums have the same bits every time."""
    masks: dict[int, int] = {}
    for head, label in enumerate(labels):
        masks[label] = masks.get(label, 0) | 1 << head
    return list(masks.values())
