"""How many threads of the CPU compute.

Libraries share a factorisation of a small matrix among all cores, where waiting for each other takes longer than the
work: on a busy machine a hundred times as long. Many of them are better shared out whole, one thread each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """This process on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def shared_out(function: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result]:
    """``function`` of every piece, in order: as many at once as this process has threads, each computed by one."""
    threads = min(torch.get_num_threads(), len(pieces))
    with pinned(1):
        if threads < 2:
            return [function(piece) for piece in pieces]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(function, pieces))
