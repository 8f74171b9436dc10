"""Work shared out among threads: in order, one thread each, and everything put back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from gqasearch.threads import pinned, shared_out


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    with pinned(2):
        yield


def test_pieces_are_computed_in_order_by_one_thread_each() -> None:
    found = shared_out(lambda piece: (piece, torch.get_num_threads()), range(7))
    assert found == [(piece, 1) for piece in range(7)]
    assert shared_out(lambda piece: piece, []) == []
    assert torch.get_num_threads() == 2


def test_errors_come_through_and_threads_are_put_back() -> None:
    with pytest.raises(ZeroDivisionError):
        shared_out(lambda piece: 1 // piece, [1, 0, 2])
    assert torch.get_num_threads() == 2
