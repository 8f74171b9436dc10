"""Blocks are pairs; several tests are paid for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, wilcoxon

from gqasearch.comparison.differences import LEVEL, holm, paired_difference, too_few


def step_down(p_values: list[float], level: float) -> list[bool]:
    """Holm's procedure as it is defined: reject from the smallest p on until one does not pass."""
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] * (len(p_values) - rank) > level:
            break
        rejected[index] = True
    return rejected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.5))
def test_adjusted_p_values_decide_as_holms_procedure(p_values: list[float], level: float) -> None:
    adjusted = holm(p_values)
    assert [p <= level for p in adjusted] == step_down(p_values, level)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    assert max(adjusted) <= 1


def test_pairs_see_what_unpaired_samples_do_not() -> None:
    """Blocks differ much more than models do."""
    rng = np.random.default_rng(0)
    blocks = rng.gamma(2.0, 1.0, size=64)
    first, second = blocks, 1.02 * blocks + rng.normal(0, 0.002, size=64)
    found = paired_difference(first, second, np.random.default_rng(0))
    assert found.p < 1e-6
    assert found.low < found.mean < found.high < 0
    assert found.p == pytest.approx(wilcoxon(first, second).pvalue)
    assert mannwhitneyu(first, second).pvalue > 0.5
    permuted = paired_difference(first, rng.permutation(second), np.random.default_rng(0))
    assert permuted.p > 0.05


def test_the_sign_is_first_less_second_and_order_of_blocks_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.random(20), rng.random(20)
    one, other = (paired_difference(a, b, np.random.default_rng(0)) for a, b in ((first, second), (second, first)))
    assert one.mean == pytest.approx(first.mean() - second.mean())
    assert (one.mean, one.p) == pytest.approx((-other.mean, other.p))
    order = rng.permutation(20)
    assert paired_difference(first[order], second[order], rng).p == pytest.approx(one.p)


def test_the_same_model_does_not_differ_and_other_blocks_are_refused() -> None:
    values = np.arange(5.0)
    found = paired_difference(values, values, np.random.default_rng(0))
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="same blocks"):
        paired_difference(values, values[:4], np.random.default_rng(0))


def test_so_few_blocks_that_no_p_is_low_enough_are_found_by_trying() -> None:
    for tests in (1, 2, 5):
        for blocks in range(2, 12):
            apart = paired_difference(np.zeros(blocks), np.arange(1.0, blocks + 1), np.random.default_rng(0))
            assert too_few(blocks, tests) == (holm([apart.p] * tests)[0] >= LEVEL)
