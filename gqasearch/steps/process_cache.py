"""What runs of one process can share, so that sweeps and comparisons do not load and measure the same things again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class ProcessCache:
    """The latest of every kind of thing, by all that it depends on.

    What is shared never changes a result: a value has the same bits whoever asked for it before. Files are taken not to
    change meanwhile.
    """

    LARGE = 1  # how many of a kind: models and hidden states may be most of the memory
    SMALL = 16  # tables of errors
    RUNNING, TABLES = "fitness that runs the model", "fitness from statistics alone"  # two kinds

    def __init__(self) -> None:
        self._kinds: dict[str, OrderedDict[Hashable, Any]] = {}

    def get(self, kind: str, most: int, key: Hashable, make: Callable[[], T]) -> T:
        """The one of this ``key``, made now if it is not kept; at most ``most`` of its kind are."""
        known = self._kinds.setdefault(kind, OrderedDict())
        if key not in known:
            while len(known) >= most:  # before the new one is made: both might not fit
                known.popitem(last=False)
            known[key] = make()
        known.move_to_end(key)
        found: T = known[key]
        return found

    def forget(self, *kinds: str) -> None:
        """Keep nothing of these kinds: for who measures how long it takes to make them."""
        for kind in kinds:
            self._kinds.pop(kind, None)
