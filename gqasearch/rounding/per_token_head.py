"""vLLM's caches ``*_per_token_head``: a float32 scale for every token of a head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.rounding._base import CacheFormat, require_multiple
from gqasearch.rounding.fp8 import LARGEST, e4m3
from gqasearch.rounding.hadamard import hadamard, largest_power_of_2

SMALLEST_SCALE = 1e-6
SMALLEST_HEAD = 32  # of vLLM's Triton attention, the only one that has these formats
SEED = 0x9E3779B9  # of the signs of its rotation


@dataclass(frozen=True)
class PerTokenHead(CacheFormat):
    """As vLLM 0.32 rounds. ``int8`` and ``fp8``: symmetric, the largest number of the token to the largest there is.

    ``int4``: asymmetric with an integer zero point, after a randomised Hadamard rotation of each block as long as the
    largest power of 2 that divides the head size. The zero point lies in the last four bits of the scale's mantissa.
    """

    reference: ClassVar[str] = "https://docs.vllm.ai/en/latest/features/quantization/quantized_kvcache/"
    summary: ClassVar[str] = "vLLM's Triton attention, a float32 scale per token and head"

    kind: Literal["int8", "fp8", "int4"] = "int8"

    @property
    def name(self) -> str:
        return f"{self.kind}_per_token_head"

    def round(self, x: Tensor) -> Tensor:
        own = x.float()
        if self.kind == "int4":
            return _rotated(own, x.dtype).to(x.dtype)
        top = LARGEST if self.kind == "fp8" else 127.0
        scale = (own.abs().amax(-1, keepdim=True) / top).clamp_min(SMALLEST_SCALE)
        scaled = own * (1 / scale)
        stored = e4m3(scaled) if self.kind == "fp8" else _away_from_zero(scaled).clamp(-128, 127)
        return (stored * scale).to(x.dtype)

    def rounded_bytes(self, head_dim: int) -> float:
        return (head_dim / 2 if self.kind == "int4" else head_dim) + 4

    def check(self, head_dim: int) -> None:
        if head_dim < SMALLEST_HEAD:
            raise UserError(
                f"cache format {self.name} takes heads of size {SMALLEST_HEAD} or more; this model's is {head_dim}"
            )
        if self.kind == "int4":
            require_multiple(self.name, head_dim, 2)


def _rotated(own: Tensor, dtype: torch.dtype) -> Tensor:
    block = largest_power_of_2(own.shape[-1])
    signs = _signs(block).to(own.device).repeat(own.shape[-1] // block)
    # vLLM's rotation is block**0.5 times the orthonormal one; its result has the dtype of the model.
    norm = math.sqrt(block)
    turned = (hadamard(own * signs, block) * norm).to(dtype).float()
    return hadamard(_asymmetric(turned), block) / norm * signs


def _asymmetric(own: Tensor) -> Tensor:
    low, high = own.amin(-1, keepdim=True), own.amax(-1, keepdim=True)
    scale = ((high - low) / 15).clamp_min(SMALLEST_SCALE)
    zero = _away_from_zero(-low / scale).clamp(0, 15)
    steps = _away_from_zero(own * (1 / scale) + zero).clamp(0, 15)
    cut = (scale.view(torch.int32) & -16).view(torch.float32)
    return (steps - zero) * cut


def _away_from_zero(x: Tensor) -> Tensor:
    """To the nearest integer, halves away from zero, as C rounds."""
    rounded: Tensor = (x + torch.copysign(torch.tensor(0.5), x)).trunc()
    return rounded


@lru_cache
def _signs(size: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(SEED)
    drawn: Tensor = torch.bernoulli(torch.full((size,), 0.5), generator=generator)
    return 2 * drawn - 1
