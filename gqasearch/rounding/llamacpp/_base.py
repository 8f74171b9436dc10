"""Caches of llama.cpp: blocks of 32 numbers along a head, rotated before where its size is a multiple of 64.

Since https://github.com/ggml-org/llama.cpp/pull/21038 it rotates quantised caches: K and V each where it is
quantised and its head size is a multiple of 64, in blocks of 64; K's blocks double as long as they still fill a head.
Queries are rotated with the keys, outputs are turned back, so that without rounding nothing would change.
LLAMA_ATTN_ROT_DISABLE=1 in the environment turns it off.

On CPUs llama.cpp rounds the queries, too, to q8_0 or its like (``vec_dot_type`` of the keys' format), to multiply
integers; on GPUs, where many queries are read at once, it does not. That is no property of the cache, and not counted
here.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from gqasearch.rounding._base import CacheFormat, require_multiple
from gqasearch.rounding.hadamard import hadamard, largest_power_of_2

BLOCK = 32
ROTATED = 64


@dataclass(frozen=True)
class BlockFormat(CacheFormat):
    """``rotate``: whether this llama.cpp rotates caches; those before that do not.

    ``interleaved``: a head's numbers i and i + d/2 lie side by side, as in the keys of Llama's kin.
    """

    reference: ClassVar[str] = "https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-quants.c"
    summary: ClassVar[str] = "llama.cpp's --cache-type-k and -v: blocks of 32"
    label: ClassVar[str]
    block_bytes: ClassVar[int]

    rotate: bool = True
    interleaved: bool = False

    @property
    def name(self) -> str:
        return self.label if self.rotate else f"{self.label}_unrotated"

    @abstractmethod
    def round_blocks(self, x: Tensor) -> Tensor:
        """Blocks (..., 32) float32."""

    def round(self, x: Tensor) -> Tensor:
        own, size = x.float(), self._rotation(x.shape[-1])
        if self.interleaved:
            own = own.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
        blocks = hadamard(own, size).unflatten(-1, (-1, BLOCK))
        read = hadamard(self.round_blocks(blocks).flatten(-2), size)
        if self.interleaved:
            read = read.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
        return read.to(x.dtype)

    def side_by_side(self) -> BlockFormat:
        return replace(self, interleaved=self.role == "k")

    def _rotation(self, head_dim: int) -> int:
        """Numbers of one block of the rotation; 1 for none."""
        if not self.rotate or head_dim % ROTATED:
            return 1
        return largest_power_of_2(head_dim) if self.role == "k" else ROTATED

    def rounded_bytes(self, head_dim: int) -> float:
        return head_dim / BLOCK * self.block_bytes

    def check(self, head_dim: int) -> None:
        require_multiple(self.name, head_dim, BLOCK)


def reciprocal(scale: Tensor) -> Tensor:
    """1 / scale, and 0 for 0."""
    return (1 / scale).where(scale != 0, 0)
