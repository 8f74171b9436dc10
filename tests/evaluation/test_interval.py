"""The interval of a mean covers it as often as it says, and is repeatable."""

from __future__ import annotations

import numpy as np

from gqasearch.evaluation import mean_interval


def test_covers_the_true_mean_about_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = mean_interval(rng.gamma(2.0, 1.0, 60).tolist(), rng)
        covered += low <= 2.0 <= high
    assert 175 <= covered <= 199


def test_is_repeatable_and_takes_equal_values() -> None:
    values = [0.1, 0.2, 0.4, 0.3]
    assert mean_interval(values, np.random.default_rng(1)) == mean_interval(values, np.random.default_rng(1))
    assert mean_interval([0.5] * 5, np.random.default_rng(0)) == (0.5, 0.5)
    assert mean_interval([0.5], np.random.default_rng(0)) == (0.5, 0.5)
