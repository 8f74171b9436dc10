"""Small problems whose first objective is measured on batches of a text: noise that averages out over all of them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from gqasearch.budget import Budget
from gqasearch.contract import PreparedTextFitness
from gqasearch.grouping import Grouping
from gqasearch.searching import Objective, Problem, SetErrors
from gqasearch.searching.problem import FloatArray
from tests.searching.problems import SetFunction, kv_heads, one_by_one

BATCH_TOKENS = (100, 100, 60, 100, 100, 40, 100, 100)


class NoisyText(PreparedTextFitness):
    """``true`` plus a noise for every grouping and batch whose mean over tokens is 0. Counts what it is asked."""

    def __init__(
        self, true: Objective, noise: float = 0.05, batch_tokens: tuple[int, ...] = BATCH_TOKENS, seed: int = 0
    ) -> None:
        self.true, self.noise, self.batch_tokens, self.seed = true, noise, batch_tokens, seed
        self.calls: list[tuple[list[Grouping], list[int]]] = []
        self.whole: list[Grouping] = []

    def on(self, grouping: Grouping, batches: Sequence[int]) -> float:
        """The value of one grouping on these batches."""
        key = zlib.crc32(repr(grouping.layers).encode())
        noise = np.random.default_rng((self.seed, key)).normal(size=len(self.batch_tokens)) * self.noise
        noise -= np.average(noise, weights=self.batch_tokens)
        weights = [self.batch_tokens[batch] for batch in batches]
        return float(self.true([grouping])[0] + np.average(noise[list(batches)], weights=weights))

    def evaluate_batches(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        self.calls.append((list(groupings), list(batches)))
        return np.array([self.on(grouping, batches) for grouping in groupings])

    def objective(self, groupings: Sequence[Grouping]) -> FloatArray:
        """On the whole text."""
        self.whole += groupings
        return np.asarray(self.true(groupings), dtype=np.float64)


def weighted_sum(functions: Sequence[SetFunction], weights: Sequence[float]) -> Objective:
    """Errors of all layers, each times its weight."""

    def total(groupings: Sequence[Grouping]) -> FloatArray:
        rows = (zip(functions, weights, grouping, strict=True) for grouping in groupings)
        # Not a matrix product: its bits depend on the rows beside.
        return np.array([sum(weight * f.of(layer) for f, weight, layer in row) for row in rows])

    return total


def text_problem(
    functions: Sequence[SetFunction],
    weights: Sequence[float],
    budget: Budget,
    *,
    noise: float = 0.05,
    free: bool = False,
) -> tuple[Problem, NoisyText]:
    """Minimise the weighted sum on noisy text; the guide knows the functions but not the weights.

    ``free``: the number of groups is the second objective.
    """
    text = NoisyText(weighted_sum(functions, weights), noise)
    guide = tuple(SetErrors(function.num_heads, one_by_one(function.error)) for function in functions)
    objectives: dict[str, Objective] = {"loss": text.objective}
    if free:
        objectives["kv"] = kv_heads
    return Problem(objectives, budget, free_counts=free, guide=guide, partial=text), text
