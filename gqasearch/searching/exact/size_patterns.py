"""Which group sizes can stand together: the integer solutions of sum v_m = G, sum m v_m = H.

A relaxation that only asks for G groups in all may use 1.8 groups of 16 heads; no partition does. Unequal sizes
drift to singletons and giants (the cost of a group grows more slowly than its size), so this, and not the choice of
heads, is most of the gap of the plain relaxation on trained heads. The convex hull of the patterns closes it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gqasearch.searching.problem import FloatArray

# Number of groups of every possible size, (M,), or (K, M) for several patterns.
Patterns = NDArray[np.float64]


# How far a number of groups may be from a whole number and count as one.
FRACTIONAL = 1e-6


class PatternSet(Protocol):
    """Size patterns with prices of sizes, (M,): the cheapest, with a given size, up to a price."""

    def allows(self, pattern: Patterns) -> bool:
        """True when the pattern, (M,), is in the set."""

    def cheapest(self, prices: FloatArray) -> tuple[float, Patterns]:
        """The least price of a pattern, and the pattern, (M,)."""

    def with_size(self, prices: FloatArray) -> FloatArray:
        """For every size, the least price of the other G - 1 groups beside one of this size, (M,)."""

    def up_to(self, prices: FloatArray, price: float, limit: int, deadline: float) -> Patterns | None:
        """All patterns of at most this price, (K, M); None when more than ``limit``, or at ``deadline``."""


@dataclass(frozen=True)
class ListedPatterns:
    """Some patterns, one by one: ``listed``, (K, M), K > 0."""

    listed: Patterns

    def allows(self, pattern: Patterns) -> bool:
        return bool((self.listed == pattern).all(1).any())

    def costs(self, prices: FloatArray) -> FloatArray:
        """Price of every pattern, (K,). Prices may be ``inf``: of sizes that no group has."""
        return np.asarray((np.where(self.listed > 0, prices, 0.0) * self.listed).sum(1), dtype=np.float64)

    def cheapest(self, prices: FloatArray) -> tuple[float, Patterns]:
        costs = self.costs(prices)
        return float(costs.min()), self.listed[int(costs.argmin())]

    def with_size(self, prices: FloatArray) -> FloatArray:
        costs = np.where(self.listed > 0, self.costs(prices)[:, None], np.inf).min(0)
        return np.asarray(costs - np.where(np.isfinite(costs), prices, 0.0), dtype=np.float64)

    def up_to(self, prices: FloatArray, price: float, limit: int, deadline: float) -> Patterns | None:
        chosen = self.listed[self.costs(prices) <= price]
        return chosen if len(chosen) <= limit and time.monotonic() < deadline else None

    def split(self, counts: FloatArray) -> NDArray[np.bool_] | None:
        """Which patterns go to one side, (K,); None when ``counts`` is a pattern, or next to one.

        ``counts``, (M,): groups of every size in a mixture of patterns. Of the numbers of groups with m heads or
        more, the most fractional is rounded down on one side and up on the other: neither allows the mixture.
        """
        larger = np.cumsum(counts[::-1])[::-1]
        fraction = np.abs(larger - np.round(larger))
        index = int(fraction.argmax())
        if fraction[index] <= FRACTIONAL:
            return None
        return np.asarray(self.listed[:, index:].sum(1) < larger[index])


@dataclass(frozen=True)
class SizePatterns:
    """All ways to write ``num_heads`` as the sum of ``num_groups`` of the ``sizes``, never listed."""

    num_heads: int
    num_groups: int
    sizes: range

    def allows(self, pattern: Patterns) -> bool:
        return bool(pattern.sum() == self.num_groups and pattern @ np.array(self.sizes) == self.num_heads)

    def tails(self, prices: FloatArray) -> FloatArray:
        """Least price of g groups that hold h heads together, (G + 1, H + 1); ``prices``: per size, (M,)."""
        least = np.full((self.num_groups + 1, self.num_heads + 1), np.inf)
        least[0, 0] = 0.0
        for groups in range(1, self.num_groups + 1):
            least[groups] = self._choices(least[groups - 1], prices).min(0)
        return least

    def cheapest(self, prices: FloatArray) -> tuple[float, Patterns]:
        tails = self.tails(prices)
        pattern = np.zeros(len(self.sizes))
        heads = self.num_heads
        for groups in range(self.num_groups, 0, -1):
            index = int(self._choices(tails[groups - 1], prices)[:, heads].argmin())
            pattern[index] += 1
            heads -= self.sizes[index]
        return float(tails[-1, -1]), pattern

    def with_size(self, prices: FloatArray) -> FloatArray:
        rest: FloatArray = self.tails(prices)[self.num_groups - 1]
        return np.asarray(rest[self.num_heads - np.array(self.sizes)], dtype=np.float64)

    def up_to(self, prices: FloatArray, price: float, limit: int, deadline: float) -> Patterns | None:
        tails = self.tails(prices)
        found: list[list[int]] = []
        # Sizes taken so far (indices that never fall), heads left, price so far.
        stack: list[tuple[list[int], int, float]] = [([], self.num_heads, 0.0)]
        while stack:
            if time.monotonic() >= deadline:
                return None
            taken, heads, paid = stack.pop()
            left = self.num_groups - len(taken)
            if left == 0:
                found.append(taken)
                if len(found) > limit:
                    return None
                continue
            for index in range(taken[-1] if taken else 0, len(self.sizes)):
                rest = heads - self.sizes[index]
                if rest < self.sizes[index] * (left - 1):
                    break
                if paid + prices[index] + tails[left - 1, rest] <= price:
                    stack.append(([*taken, index], rest, paid + float(prices[index])))
        listed = np.zeros((len(found), len(self.sizes)))
        for row, taken in zip(listed, found, strict=True):
            row += np.bincount(taken, minlength=len(self.sizes))
        return listed

    def _choices(self, rest: FloatArray, prices: FloatArray) -> FloatArray:
        """Price of one group of each size beside ``rest``, (M, H + 1)."""
        choices = np.full((len(self.sizes), self.num_heads + 1), np.inf)
        for index, size in enumerate(self.sizes):
            choices[index, size:] = rest[: self.num_heads + 1 - size] + prices[index]
        return choices
