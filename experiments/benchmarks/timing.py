"""Paired timings: A B A B ..., so that a ratio holds while the machine's speed drifts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Paired:
    """Seconds of the baseline and of the candidate per call, and the ratio pair by pair (medians)."""

    name: str
    baseline: float
    candidate: float
    ratio: float
    lowest: float
    highest: float


def paired(
    name: str, baseline: Callable[[], object], candidate: Callable[[], object], pairs: int = 5, per_call: float = 1.0
) -> Paired:
    """Time both in turn; ``per_call``: units of work the candidate does for one of the baseline's."""
    candidate()
    slow, fast = [], []
    for _ in range(pairs):
        slow.append(_seconds(baseline))
        fast.append(_seconds(candidate) / per_call)
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return Paired(name, median(slow), median(fast), median(ratios), min(ratios), max(ratios))


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
