"""How sure a mean over text blocks is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap


def mean_interval(values: Sequence[float], rng: np.random.Generator, confidence: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval (BCa; Efron 1987) of the mean of one value per block of text.

    With fewer than two different values there is nothing to resample: the mean, twice.
    """
    data = np.asarray(values, dtype=np.float64)
    if len(data) < 2 or np.ptp(data) == 0:
        return float(data.mean()), float(data.mean())
    found = bootstrap((data,), np.mean, confidence_level=confidence, n_resamples=2000, rng=rng)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
