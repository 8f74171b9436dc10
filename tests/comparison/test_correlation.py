"""Correlations are scipy's, many at once; intervals cover; words follow the rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from gqasearch.comparison.correlation import Interval, correlation, kendall, spearman, spread, verdict

few = st.integers(0, 4)  # ties are common


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@given(st.lists(st.tuples(few, few), min_size=3, max_size=12))
def test_both_are_scipys_with_ties(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, dtype=float).T
    constant = np.ptp(x) == 0 or np.ptp(y) == 0
    assert spearman(x, y) == pytest.approx(0 if constant else spearmanr(x, y).statistic)
    assert kendall(x, y) == pytest.approx(0 if constant else kendalltau(x, y).statistic)


def test_many_at_once_are_one_by_one() -> None:
    x, y = rng().integers(0, 6, size=(2, 5, 9)).astype(float)
    for statistic in (spearman, kendall):
        assert statistic(x, y) == pytest.approx([float(statistic(a, b)) for a, b in zip(x, y, strict=True)])
        assert statistic(x.T, y.T, axis=0) == pytest.approx(statistic(x, y))


def test_perfect_reversed_and_constant() -> None:
    x = np.arange(20.0)
    assert correlation(spearman, x, x**3, rng()) == Interval(1.0, 1.0, 1.0)
    assert verdict(correlation(spearman, x, x**3, rng())) == "strong"
    assert correlation(kendall, x, -x, rng()) == Interval(-1.0, -1.0, -1.0)
    assert verdict(correlation(spearman, x, -x, rng())) == "misleading"
    blind = correlation(spearman, np.full(20, 7.0), x, rng())
    assert blind == Interval(0.0, -1.0, 1.0)
    assert verdict(blind) == "blind"
    assert spread(np.full(20, 7.0)) == 0


def test_an_interval_is_the_percentiles_of_resampled_groupings() -> None:
    x = rng().normal(size=25)
    y = x + np.random.default_rng(1).normal(size=25)
    found = correlation(spearman, x, y, rng())
    draws = np.random.default_rng(5).integers(25, size=(1500, 25))
    brute = [spearmanr(x[draw], y[draw]).statistic for draw in draws]
    assert (found.low, found.high) == pytest.approx(np.percentile(brute, [2.5, 97.5]), abs=0.04)
    assert found.low < found.value < found.high


def test_intervals_cover_and_noise_is_blind() -> None:
    """Of pairs with no relation about one in twenty is called anything but blind."""
    draws = np.random.default_rng(2).normal(size=(40, 2, 40))
    called = [verdict(correlation(spearman, x, y, rng())) for x, y in draws]
    assert called.count("blind") >= 34


@pytest.mark.parametrize(
    ("value", "low", "high", "word"),
    [
        (0.3, 0.01, 0.5, "weak"),
        (0.5, 0.2, 0.7, "fair"),
        (0.8, 0.6, 0.9, "strong"),
        (0.4, 0.0, 0.7, "blind"),
        (-0.2, -0.5, 0.1, "blind"),
        (-0.4, -0.6, -0.1, "misleading"),
    ],
)
def test_the_rule(value: float, low: float, high: float, word: str) -> None:
    assert verdict(Interval(value, low, high)) == word


def test_spread_is_the_range_over_the_median() -> None:
    assert spread(np.array([9.0, 10.0, 12.0])) == pytest.approx(0.3)
    assert np.isnan(spread(np.array([-1.0, 0.0, 1.0])))
