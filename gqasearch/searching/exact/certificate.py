"""What an exact method hands back: a partition and how far it can be from the best one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gqasearch.grouping import LayerGrouping

# A gap at most this large, relative to the value, counts as closed: costs are sums of float64.
CLOSED_GAP = 1e-9


@dataclass(frozen=True)
class Certificate:
    """The best partition found and a bound that no partition within the same limits goes below.

    ``groups``: canonical; ``value``: its cost; ``lower_bound``: of the cost of every partition with as many
    groups and sizes within bounds, at most ``value``, ``-inf`` when none is known; ``seconds``: wall time spent.
    """

    groups: tuple[tuple[int, ...], ...]
    value: float
    lower_bound: float
    seconds: float

    def __post_init__(self) -> None:
        if self.groups != LayerGrouping.from_groups(self.groups).groups:
            raise ValueError(f"groups are not in canonical order: {self.groups}")
        if not math.isfinite(self.value) or math.isnan(self.lower_bound) or self.lower_bound > self.value:
            raise ValueError(f"no certificate: value {self.value}, lower bound {self.lower_bound}")

    @property
    def gap(self) -> float:
        """Value above the lower bound, relative to the value; 0 for a value of 0 that is reached."""
        if self.value == self.lower_bound:
            return 0.0
        return (self.value - self.lower_bound) / abs(self.value) if self.value != 0 else math.inf

    @property
    def proven(self) -> bool:
        """True when the partition is optimal, up to ``CLOSED_GAP``."""
        return self.gap <= CLOSED_GAP
