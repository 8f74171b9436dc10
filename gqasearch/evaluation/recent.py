"""What was used last, within a bound of memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A mapping that forgets what was not used longest, once its values take more than ``most_bytes``."""

    def __init__(self, most_bytes: int, size: Callable[[Value], int]) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._size = size
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key) -> Value | None:
        """The value, now the last one used; None where it is not known."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: Key, value: Value) -> None:
        """Keep a value; a known key gets the new one. One that is larger than the bound is not kept."""
        known = self._values.pop(key, None)
        if known is not None:
            self.bytes -= self._size(known)
        size = self._size(value)
        if size > self.most_bytes:
            return
        self._values[key] = value
        self.bytes += size
        while self.bytes > self.most_bytes:
            _, oldest = self._values.popitem(last=False)
            self.bytes -= self._size(oldest)
