"""Which dtypes are quick on a machine, and what is said of those that are not."""

from __future__ import annotations

import pytest
import torch

from gqasearch.models import precision, slow_words


@pytest.mark.parametrize(("seconds", "told"), [(0.006, "6.0 times as long"), (0.0014, None), (0.0005, None)])
def test_a_dtype_in_which_products_take_longer_is_told_of(
    seconds: float, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {torch.float32: 0.001, torch.bfloat16: seconds}
    monkeypatch.setattr(precision, "product_seconds", taken.__getitem__)
    words = slow_words(torch.bfloat16, torch.device("cpu"))
    assert (words is None) == (told is None)
    if told is not None and words is not None:
        assert told in words and "dtype bfloat16" in words and "--dtype float32" in words


@pytest.mark.parametrize(("dtype", "device"), [(torch.float32, "cpu"), (torch.bfloat16, "cuda")])
def test_float32_and_other_devices_are_not_timed(
    dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "product_seconds", lambda dtype: 1 / 0)
    assert slow_words(dtype, torch.device(device)) is None


def test_a_product_is_timed_once() -> None:
    assert precision.product_seconds(torch.bfloat16) == precision.product_seconds(torch.bfloat16) > 0
