"""The groups whose errors one search asked for, in order: what its model is fitted to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gqasearch.pairwise import FloatArray
from gqasearch.searching.group_errors import SetErrors
from gqasearch.searching.state import pack, unpack


class AskedErrors:
    """Errors of groups of two heads or more, by bit mask.

    ``limit``: the most distinct groups; None for no limit. What others asked ``errors`` for is not in here, so a
    search does the same whatever ran before it.
    """

    def __init__(self, errors: SetErrors) -> None:
        self.limit: int | None = None
        # True once something was refused.
        self.is_full = False
        self._errors = errors
        self._known: dict[int, float] = {}
        self._width = -(-errors.num_heads // 8)  # bytes of a mask

    def __len__(self) -> int:
        return len(self._known)

    def ask(self, masks: Sequence[int]) -> bool:
        """Know these from now on; False, and nothing asked, where the limit forbids that."""
        new = [mask for mask in dict.fromkeys(masks) if self.get(mask) is None]
        if self.limit is not None and len(self) + len(new) > self.limit:
            self.is_full = True
            return False
        self._known.update(zip(new, self._errors.mask_errors(new), strict=True))
        return True

    def get(self, mask: int) -> float | None:
        """The error of a group that was asked for; 0 for a single head, None for others."""
        return self._known.get(mask) if mask & (mask - 1) else 0.0

    def known(self, mask: int) -> float:
        """The error of a group that was asked for; 0 for a single head."""
        return self._known[mask] if mask & (mask - 1) else 0.0

    def table(self, start: int, end: int) -> tuple[FloatArray, FloatArray]:
        """The groups from ``start`` up to ``end`` as 0 and 1, (N, H), and their errors, (N,)."""
        masks, values = list(self._known)[start:end], list(self._known.values())[start:end]
        rows = np.frombuffer(self._bytes(masks), dtype=np.uint8).reshape(len(masks), self._width)
        members = np.unpackbits(rows, axis=1, count=self._errors.num_heads, bitorder="little")
        return members.astype(np.float64), np.array(values)

    def save(self, length: int) -> str:
        """The first ``length`` groups and their errors."""
        values = np.array(list(self._known.values())[:length], dtype="<f8")
        return pack(self._bytes(list(self._known)[:length]) + values.tobytes())

    def load(self, saved: str) -> None:
        """Take up saved groups, in place of those known; nobody asks for them again."""
        data, width = unpack(saved), self._width
        end = len(data) // (width + 8) * width
        masks = [int.from_bytes(data[start : start + width], "little") for start in range(0, end, width)]
        self._known = dict(zip(masks, np.frombuffer(data[end:], dtype="<f8").tolist(), strict=True))
        self._errors.remember(self._known)

    def _bytes(self, masks: Sequence[int]) -> bytes:
        return b"".join(mask.to_bytes(self._width, "little") for mask in masks)
