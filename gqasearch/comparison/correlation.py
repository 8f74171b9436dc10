"""Whether one number ranks as another does: correlations with bootstrap intervals, and the rule that names them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy.stats import bootstrap, rankdata

from gqasearch.pairwise import FloatArray
from gqasearch.reporting.comparison import FAIR, STRONG

Statistic: TypeAlias = Callable[..., FloatArray]
Verdict = Literal["blind", "misleading", "weak", "fair", "strong"]

RESAMPLES = 2000
BATCH = 100  # resamples at once: Kendall's needs (BATCH, n, n)
RULE = (
    "blind: the 95% interval of Spearman's correlation holds 0, or all values are equal; misleading: it lies below 0; "
    f"otherwise weak below {FAIR}, fair below {STRONG}, strong from there. Each interval is of one fitness alone, not "
    "adjusted for how many there are: about one in 20 that are blind is called otherwise."
)


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95% interval."""

    value: float
    low: float
    high: float


def spearman(x: FloatArray, y: FloatArray, axis: int = -1) -> FloatArray:
    """Spearman's rank correlation of ``x`` and ``y`` (..., n); ties get their mean rank, 0 where either is constant."""
    a, b = (rankdata(values, axis=axis) for values in (x, y))
    a, b = (ranks - ranks.mean(axis=axis, keepdims=True) for ranks in (a, b))
    return _quotient((a * b).sum(axis=axis), (a * a).sum(axis=axis), (b * b).sum(axis=axis))


def kendall(x: FloatArray, y: FloatArray, axis: int = -1) -> FloatArray:
    """Kendall's tau-b of ``x`` and ``y`` (..., n), ``axis`` the last; 0 where either is constant."""
    if axis != -1:
        x, y = (np.moveaxis(values, axis, -1) for values in (x, y))
    a, b = (np.sign(values[..., :, None] - values[..., None, :]) for values in (x, y))
    pairs = (-2, -1)
    return _quotient((a * b).sum(axis=pairs), (a * a).sum(axis=pairs), (b * b).sum(axis=pairs))


def _quotient(product: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    """product / sqrt(first * second), 0 where that is 0 / 0: what never changes ranks nothing."""
    below = np.sqrt(first * second)
    return np.divide(product, below, out=np.zeros_like(below), where=below > 0)


def correlation(statistic: Statistic, x: FloatArray, y: FloatArray, rng: np.random.Generator) -> Interval:
    """``statistic`` of ``x`` and ``y`` (n,), and its interval: percentiles over resampled groupings (Efron 1979).

    Percentiles, as others fail where every resample has the same value (a perfect order).
    """
    value = float(statistic(x, y))
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Interval(value, -1.0, 1.0)
    found = bootstrap(
        (x, y),
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=BATCH,
        method="percentile",
        rng=rng,
    )
    return Interval(value, float(found.confidence_interval.low), float(found.confidence_interval.high))


def verdict(found: Interval) -> Verdict:
    """The rule, :data:`RULE`."""
    if found.high < 0:
        return "misleading"
    if found.low <= 0:
        return "blind"
    if found.value < FAIR:
        return "weak"
    return "fair" if found.value < STRONG else "strong"


def spread(values: FloatArray) -> float:
    """How much values (n,) differ: (largest - smallest) / |median|; NaN where the median is 0."""
    middle = abs(float(np.median(values)))
    return float(np.ptp(values)) / middle if middle else np.nan
