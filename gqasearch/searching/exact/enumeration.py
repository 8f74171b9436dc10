"""Every group within bounds, listed once: pricing is then one product of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np

from gqasearch.searching.exact.pairwise_problem import Columns, PairwiseProblem


def number_of_groups(num_heads: int, sizes: Sequence[int]) -> int:
    """Sets of heads with one of these sizes."""
    return sum(comb(num_heads, size) for size in sizes)


def all_columns(problem: PairwiseProblem) -> Columns:
    """Every group of a possible size, (number_of_groups, H)."""
    num_heads = problem.num_heads
    found = []
    # Sets of each size in lexicographic order, grown by a head behind their last one.
    members = np.zeros((1, 0), dtype=np.int16)
    for size in range(1, problem.sizes[-1] + 1):
        last = members[:, -1] if size > 1 else np.full(len(members), -1, dtype=np.int16)
        room = num_heads - 1 - last.astype(np.intp)
        parent = np.repeat(np.arange(len(members)), room)
        step = np.arange(len(parent)) - np.repeat(np.cumsum(room) - room, room)
        members = np.column_stack([members[parent], (last[parent] + 1 + step).astype(np.int16)])
        if size in problem.sizes:
            columns = np.zeros((len(members), num_heads))
            np.put_along_axis(columns, members.astype(np.intp), 1.0, axis=1)
            found.append(columns)
    return np.concatenate(found)
