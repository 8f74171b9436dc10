"""FP8 E4M3: 8-bit floats of 3 bits of mantissa, times a scale that all tokens share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from gqasearch.rounding._base import CacheFormat

LARGEST = 448.0  # of E4M3
Scaled: TypeAlias = Literal["fixed", "tensor", "head"]


def e4m3(x: Tensor) -> Tensor:
    """Float32 to the nearest E4M3, what is too large to the largest: torch alone would make it NaN."""
    return x.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).to(torch.float32)


@dataclass(frozen=True)
class Fp8(CacheFormat):
    """``fixed``: every layer has ``scale``, vLLM's default of 1 or what a checkpoint gives.

    ``tensor`` and ``head``: the scale that brings the largest number of a layer, or of every head, to the largest that
    there is, taken from the tokens at hand. vLLM reads it from checkpoints that were calibrated so (strategies
    ``tensor`` and ``attn_head`` of compressed-tensors); ``QuantizedCache`` of transformers, backend fp8, takes it from
    the prompt, of the whole tensor. Scales count for nothing: they do not grow with the tokens.
    """

    reference: ClassVar[str] = "https://docs.vllm.ai/en/latest/features/quantization/quantized_kvcache/"
    summary: ClassVar[str] = "vLLM's fp8 (E4M3); _tensor, _head: scales from the largest number"

    scaled: Scaled = "fixed"
    scale: float = 1.0

    @property
    def name(self) -> str:
        return "fp8" if self.scaled == "fixed" else f"fp8_{self.scaled}"

    def round(self, x: Tensor) -> Tensor:
        own = x.float()
        scale = self._scale(own)
        return (e4m3(own / scale) * scale).to(x.dtype)

    def _scale(self, own: Tensor) -> Tensor:
        if self.scaled == "fixed":
            return own.new_tensor(self.scale)
        others = [axis for axis in range(own.ndim) if axis != own.ndim - 3]
        largest = own.abs().amax() if self.scaled == "tensor" else own.abs().amax(others, keepdim=True)
        return (largest / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)

    def rounded_bytes(self, head_dim: int) -> float:
        return head_dim
