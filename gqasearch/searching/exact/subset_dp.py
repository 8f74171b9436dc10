"""Dynamic programming over subsets: the best partition for any set function, every number of groups at once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
from numpy.typing import NDArray

from gqasearch.errors import UserError
from gqasearch.group_errors import BatchedSetFunction
from gqasearch.grouping import LayerGrouping
from gqasearch.searching.exact.bounds import check_bounds, check_sizes
from gqasearch.searching.exact.certificate import Certificate
from gqasearch.searching.problem import FloatArray

# The work grows as 3^H and the set function is asked for up to 2^H groups.
MAX_HEADS = 16
# Groups asked for at once; the clock is read in between.
CHUNK = 64

Masks = NDArray[np.intp]


@dataclass(frozen=True)
class SubsetOptima:
    """The best partition of a layer for every number of groups.

    ``values`` (H + 1,): optimum by number of groups, ``inf`` where no partition fits the bounds on size.
    """

    num_heads: int
    smallest: int
    largest: int
    values: FloatArray
    seconds: float
    errors: FloatArray
    best: FloatArray

    def partition(self, num_groups: int) -> LayerGrouping:
        """A best partition into so many groups; raises ``UserError`` when there is none."""
        check_bounds(self.num_heads, num_groups, self.smallest, self.largest)
        left, groups = 2**self.num_heads - 1, []
        for others in range(num_groups - 1, -1, -1):
            choices = _groups_of_lowest(left, self.errors)
            chosen = int(choices[(self.errors[choices] + self.best[left ^ choices, others]).argmin()])
            groups.append([head for head in range(self.num_heads) if chosen >> head & 1])
            left ^= chosen
        return LayerGrouping.from_groups(groups, self.num_heads)

    def certificate(self, num_groups: int) -> Certificate:
        """The optimum as its own proof; ``seconds`` are those of all numbers of groups together."""
        groups = self.partition(num_groups).groups
        value = float(self.values[num_groups])
        return Certificate(groups, value, value, self.seconds)


def solve_subsets(group_errors: FloatArray, num_heads: int, smallest: int, largest: int) -> SubsetOptima:
    """Minimise the sum of the groups' errors over all partitions with sizes in bounds, for every number of groups.

    ``group_errors`` (2^H,): by bit mask (bit h: head h is in the group); only sizes in bounds are read, and those
    must be finite. The recursion is over the group that holds the lowest head left, so only sets without head 0 are
    visited, and the set of all. Raises ``UserError`` for more than ``MAX_HEADS`` heads, bad bounds or errors.
    """
    begun = time.monotonic()
    _check_size(num_heads, smallest, largest)
    errors = np.array(group_errors, dtype=np.float64)
    if errors.shape != (2**num_heads,):
        raise UserError(f"group errors must have shape ({2**num_heads},) for {num_heads} heads, got {errors.shape}")
    size = np.bitwise_count(np.arange(len(errors)))
    within = (size >= smallest) & (size <= largest)
    if not np.isfinite(errors[within]).all():
        mask = int(np.flatnonzero(within & ~np.isfinite(errors))[0])
        heads = [head for head in range(num_heads) if mask >> head & 1]
        raise UserError(f"group errors must be finite, got {errors[mask]} for heads {heads}")
    errors[~within] = np.inf
    best = np.full((len(errors), num_heads // smallest + 1), np.inf)
    best[0, 0] = 0.0
    for mask in [*range(2, len(errors), 2), len(errors) - 1]:
        choices = _groups_of_lowest(mask, errors)
        if len(choices):
            best[mask, 1:] = (best[mask ^ choices, :-1] + errors[choices, None]).min(0)
    values = np.full(num_heads + 1, np.inf)
    values[: best.shape[1]] = best[-1]
    return SubsetOptima(num_heads, smallest, largest, values, time.monotonic() - begun, errors, best)


def tabulate_errors(
    group_errors: BatchedSetFunction,
    num_heads: int,
    smallest: int,
    largest: int,
    time_limit: float | None = None,
) -> FloatArray | None:
    """Errors of every group with a size in bounds, (2^H,) by bit mask; ``inf`` elsewhere.

    ``group_errors``: of many groups of one size at once, which may be faster than one by one. Single heads share with
    nobody: 0, without asking. None when the table is not full after ``time_limit`` seconds.
    """
    begun = time.monotonic()
    _check_size(num_heads, smallest, largest)
    errors = np.full(2**num_heads, np.inf)
    for size in range(smallest, largest + 1):
        groups = combinations(range(num_heads), size)
        while chunk := list(islice(groups, CHUNK)):
            if time_limit is not None and time.monotonic() - begun > time_limit:
                return None
            found = group_errors(chunk) if size > 1 else [0.0] * len(chunk)
            errors[[sum(1 << head for head in heads) for heads in chunk]] = found
    return errors


def _check_size(num_heads: int, smallest: int, largest: int) -> None:
    if not 1 <= num_heads <= MAX_HEADS:
        raise UserError(f"dynamic programming over subsets takes 1 to {MAX_HEADS} heads, got {num_heads}")
    check_sizes(num_heads, smallest, largest)


def _groups_of_lowest(mask: int, errors: FloatArray) -> Masks:
    """Subsets of ``mask`` that hold its lowest head and have a size in bounds."""
    subsets = np.array([mask & -mask], dtype=np.intp)
    rest = mask & (mask - 1)
    while rest:
        subsets = np.concatenate([subsets, subsets | (rest & -rest)])
        rest &= rest - 1
    return subsets[np.isfinite(errors[subsets])]
