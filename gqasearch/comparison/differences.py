"""Whether two models differ on the same text: tests that take its blocks as pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from gqasearch.evaluation import mean_interval
from gqasearch.pairwise import FloatArray


@dataclass(frozen=True)
class Difference:
    """Mean over blocks of first - second, its 95% bootstrap interval over blocks, and Wilcoxon's two-sided p."""

    mean: float
    low: float
    high: float
    p: float


def paired_difference(first: FloatArray, second: FloatArray, rng: np.random.Generator) -> Difference:
    """Of one number per block of the same text, (B,) each.

    The signed-rank test (Wilcoxon 1945) asks for no normal distribution, which KL per block has not.
    """
    if first.shape != second.shape:
        raise ValueError(f"pairs need the same blocks, got {first.shape} and {second.shape}")
    differences = first - second
    low, high = mean_interval(differences.tolist(), rng)
    p = float(wilcoxon(differences).pvalue) if differences.any() else 1.0
    return Difference(float(differences.mean()), low, high, p)


LEVEL = 0.05  # of a p that tells two models apart


def too_few(blocks: int, tests: int) -> bool:
    """Whether no difference can be told on so few blocks: the least p of the signed-rank test, 2 / 2^B where all blocks
    agree, times the number of tests, is no less than ``LEVEL``.

    >>> [too_few(blocks, 2) for blocks in (4, 6, 7)]
    [True, True, False]
    """
    return tests * 2.0 ** (1 - blocks) >= LEVEL


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for how many there are (Holm 1979): one below 0.05 in the family by chance at most 5% of times.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order.tolist()):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
