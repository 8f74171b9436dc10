"""What a certificate claims, and what it refuses to claim."""

from __future__ import annotations

import math

import pytest

from gqasearch.searching.exact.certificate import CLOSED_GAP, Certificate

GROUPS = ((0, 2), (1,))


def test_gap_is_relative_to_the_value() -> None:
    certificate = Certificate(GROUPS, 4.0, 3.0, 0.1)
    assert certificate.gap == 0.25 and not certificate.proven


@pytest.mark.parametrize(("value", "bound", "proven"), [(2.0, 2 - CLOSED_GAP, True), (2.0, 2 - 4 * CLOSED_GAP, False)])
def test_proven_is_a_gap_within_rounding(value: float, bound: float, proven: bool) -> None:
    assert Certificate(GROUPS, value, bound, 0.0).proven is proven


def test_zero_value() -> None:
    assert Certificate(GROUPS, 0.0, 0.0, 0.0).proven
    assert Certificate(GROUPS, 0.0, -1.0, 0.0).gap == math.inf


def test_no_bound_at_all() -> None:
    certificate = Certificate(GROUPS, 1.0, -math.inf, 0.0)
    assert certificate.gap == math.inf and not certificate.proven


@pytest.mark.parametrize(
    ("groups", "value", "bound"),
    [
        (((1,), (0, 2)), 1.0, 0.0),
        (GROUPS, 1.0, 1.1),
        (GROUPS, math.nan, 0.0),
        (GROUPS, 1.0, math.nan),
    ],
)
def test_what_cannot_be_is_refused(groups: tuple[tuple[int, ...], ...], value: float, bound: float) -> None:
    with pytest.raises(ValueError, match=r"canonical|no certificate"):
        Certificate(groups, value, bound, 0.0)
