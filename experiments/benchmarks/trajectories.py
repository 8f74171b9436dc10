"""What a search has found after how many CPU seconds and evaluations."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# A value within this of the optimum, relative, is the optimum: costs are sums of float64.
REACHED = 1e-9


@dataclass(frozen=True)
class Limits:
    """A run goes on until both ``evaluations`` and ``seconds`` (CPU) are passed, at most to ``most_seconds``."""

    evaluations: int
    seconds: float
    most_seconds: float


@dataclass(frozen=True)
class Trajectory:
    """Lowest error found, after CPU seconds and evaluations, one entry per generation: (T,) each.

    ``ended``: nothing more was to come, as the method ended or the optimum was reached; otherwise the run was cut.
    """

    seconds: tuple[float, ...]
    evaluations: tuple[int, ...]
    values: tuple[float, ...]
    ended: bool

    def after_evaluations(self, evaluations: float) -> float:
        """Lowest error within so many evaluations; NaN where the run was cut before, inf where none is valid yet."""
        return self._after(self.evaluations, evaluations)

    def after_seconds(self, seconds: float) -> float:
        """Lowest error within so many CPU seconds; NaN as above."""
        return self._after(self.seconds, seconds)

    @property
    def last(self) -> float:
        """Lowest error of the whole run; inf where no partition was valid."""
        return np.inf if np.isnan(self.values[-1]) else self.values[-1]

    def reached(self, target: float) -> tuple[float, float]:
        """(CPU seconds, evaluations) when ``target`` was reached; NaN where it was not."""
        for seconds, evaluations, value in zip(self.seconds, self.evaluations, self.values, strict=True):
            if is_reached(value, target):
                return seconds, float(evaluations)
        return np.nan, np.nan

    def _after(self, axis: tuple[float, ...] | tuple[int, ...], limit: float) -> float:
        place = bisect_right(axis, limit)
        if place == len(axis) and not self.ended:
            return np.nan
        return np.inf if place == 0 or np.isnan(self.values[place - 1]) else self.values[place - 1]


def is_reached(value: float, target: float) -> bool:
    """Whether an error is the target's, but for rounding."""
    return value <= target + REACHED * abs(target)


def follow(search: Iterable[tuple[int, float]], limits: Limits, target: float) -> Trajectory:
    """Run a search, given as (evaluations, lowest error) per generation, until a limit or the target is reached.

    Only the search's own CPU time counts.
    """
    seconds, evaluations, values = list[float](), list[int](), list[float]()
    begun, ended = time.process_time(), True
    for count, value in search:
        seconds.append(time.process_time() - begun)
        evaluations.append(count)
        values.append(value)
        if is_reached(value, target):
            break
        past_both = count > limits.evaluations and seconds[-1] > limits.seconds
        if past_both or seconds[-1] > limits.most_seconds:
            ended = False
            break
    return Trajectory(tuple(seconds), tuple(evaluations), tuple(values), ended)
