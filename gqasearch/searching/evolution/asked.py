"""The groups whose errors one search asked for, in order: what its model is fitted to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gqasearch.group_errors import SetErrors
from gqasearch.pairwise import FloatArray


class AskedErrors:
    """Which groups of two heads or more were asked for, by bit mask, in order; their errors are in ``errors``.

    ``limit``: the most distinct groups; None for no limit. What others asked ``errors`` for is not in here, so a
    search does the same whatever ran before it.
    """

    def __init__(self, errors: SetErrors) -> None:
        self.limit: int | None = None
        # True once something was refused.
        self.is_full = False
        self._errors = errors
        self._asked: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def ask(self, masks: Sequence[int]) -> bool:
        """Know these from now on; False, and nothing asked, where the limit forbids that."""
        new = [mask for mask in dict.fromkeys(masks) if self.get(mask) is None]
        if self.limit is not None and len(self) + len(new) > self.limit:
            self.is_full = True
            return False
        self._errors.mask_errors(new)
        self._asked.update(dict.fromkeys(new))
        return True

    def get(self, mask: int) -> float | None:
        """The error of a group that was asked for; 0 for a single head, None for others."""
        return self.known(mask) if mask in self._asked or not mask & (mask - 1) else None

    def known(self, mask: int) -> float:
        """The error of a group that was asked for; 0 for a single head."""
        return self._errors.known[mask]

    def table(self, start: int) -> tuple[FloatArray, FloatArray]:
        """The groups from number ``start`` on as 0 and 1, (N, H), and their errors, (N,)."""
        masks = list(self._asked)[start:]
        width = -(-self._errors.num_heads // 8)  # bytes of a mask
        rows = np.frombuffer(b"".join(mask.to_bytes(width, "little") for mask in masks), dtype=np.uint8)
        bits = np.unpackbits(rows.reshape(-1, width), axis=1, count=self._errors.num_heads, bitorder="little")
        return bits.astype(np.float64), np.array([self.known(mask) for mask in masks])
