"""What a rounded cache does to the keys or the values of one KV head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from gqasearch.errors import UserError

Role: TypeAlias = Literal["k", "v"]
# Of a number of the tokens that a format leaves unrounded: float16 or bfloat16.
UNROUNDED_BYTES = 2


@dataclass(frozen=True)
class CacheFormat(ABC):
    """One way in which an engine stores keys or values.

    ``role``: "k" for keys, after RoPE, as they are cached; "v" for values. Engines round the two differently.
    """

    reference: ClassVar[str]
    summary: ClassVar[str]

    role: Role = "k"

    @property
    @abstractmethod
    def name(self) -> str:
        """As in ``FORMATS``."""

    @abstractmethod
    def round(self, x: Tensor) -> Tensor:
        """``x`` (..., H, T, d) as it is read from the cache: H heads, T tokens from the first one on.

        Same shape and dtype; the arithmetic is float32's, whatever the dtype.
        """

    @abstractmethod
    def rounded_bytes(self, head_dim: int) -> float:
        """Bytes that a rounded token takes in one head, its share of scales and zero points included."""

    def check(self, head_dim: int) -> None:  # noqa: B027 - most take every size
        """Raise ``UserError`` for a head size that the engine refuses."""

    def rounded_before(self, tokens: int) -> Tensor | None:
        """How many of the oldest tokens are read rounded by the query at every position, (tokens,) int64.

        It reads the others as they were. None: all are rounded, its own token too.
        """
        return None

    def bytes_per_head(self, head_dim: int, context: int | None = None) -> float:
        """Bytes per token in one head, mean over a cache of ``context`` tokens; of an endless one if not given.

        What a format leaves unrounded, a window of recent tokens, has 16 bits.
        """
        rounded = self.rounded_bytes(head_dim)
        before = None if context is None else self.rounded_before(context + 1)
        if context is None or before is None:
            return rounded
        share = int(before[-1]) / context
        return share * rounded + (1 - share) * UNROUNDED_BYTES * head_dim

    def side_by_side(self) -> CacheFormat:
        """The same for keys whose RoPE pairs the engine has side by side, not half a head apart as they are here."""
        return self

    def straight_through(self, x: Tensor) -> Tensor:
        """``round`` whose gradient is that of the identity (arXiv 1308.3432); its values are those of ``round``."""
        return self.round(x.detach()) + (x - x.detach())


def require_multiple(name: str, head_dim: int, block: int) -> None:
    """Raise ``UserError`` unless blocks of ``block`` numbers fill a head."""
    if head_dim % block:
        raise UserError(
            f"cache format {name} takes heads whose size is a multiple of {block}; this model's is {head_dim}"
        )


def flushed_before(tokens: int, residual: int) -> Tensor:
    """``rounded_before`` of a cache that rounds ``residual`` tokens at a time, as soon as they have been read."""
    return torch.arange(tokens) // max(residual, 1) * max(residual, 1)


def half(x: Tensor) -> Tensor:
    """Float32 as float16 stores it."""
    return x.to(torch.float16).to(torch.float32)
