"""The KV budget over layers: exact, for every budget at once.

Which number of groups every layer gets, so that the summed error is lowest for a total: a multiple-choice
knapsack with small whole weights, which dynamic programming solves in O(L^2 H^2) steps (Dudzinski and
Walukiewicz 1987, https://doi.org/10.1016/0377-2217(87)90165-2, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gqasearch.errors import UserError
from gqasearch.pairwise import FloatArray, IntArray


@dataclass(frozen=True)
class BudgetSplit:
    """Lowest summed error for every total, and how to get it.

    ``errors``: (L * H + 1,), at index t of exactly t groups in all; inf where no split has that total.
    ``choices``: (L, L * H + 1), groups of layer l in the best split of t over layers 0..l.
    """

    errors: FloatArray
    choices: IntArray

    def counts(self, total: int) -> tuple[int, ...]:
        """Groups of every layer, (L,), in the best split of exactly ``total``."""
        if not 0 <= total < len(self.errors) or not np.isfinite(self.errors[total]):
            raise UserError(f"no split of {total} groups over the layers is possible")
        counts = []
        for choice in self.choices[::-1]:
            counts.append(int(choice[total]))
            total -= counts[-1]
        return tuple(reversed(counts))

    def best_total(self, most: int) -> int:
        """The total of at most ``most`` groups with the lowest error; the smaller among equals."""
        best = int(np.argmin(self.errors[: most + 1]))
        if not np.isfinite(self.errors[best]):
            raise UserError(f"no split of at most {most} groups over the layers is possible")
        return best


def split_budget(curves: FloatArray) -> BudgetSplit:
    """The best split of every total; ``curves``: (L, H), error of layer l with g + 1 groups, inf where impossible."""
    layers, heads = curves.shape
    most = layers * heads
    errors = np.full(most + 1, np.inf)
    errors[0] = 0.0
    choices = np.zeros((layers, most + 1), dtype=np.int64)
    for layer, curve in enumerate(curves):
        used = (layer + 1) * heads + 1  # totals that so many layers can have
        # options[g, t]: layer has g + 1 of the t groups.
        options = np.full((heads, used), np.inf)
        for groups in range(1, heads + 1):
            options[groups - 1, groups:] = errors[: used - groups] + curve[groups - 1]
        best = options.argmin(axis=0)
        choices[layer, :used] = best + 1
        errors[:used] = options[best, np.arange(used)]
    return BudgetSplit(errors, choices)
