"""Granite 3 (IBM, 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gqasearch.models.family import Config, Family, TensorReader


@dataclass(frozen=True)
class Granite(Family):
    """Llama with a score scale (``attention_multiplier``) and a factor on what attention adds to the stream."""

    name: ClassVar[str] = "granite"
    architectures: ClassVar[tuple[str, ...]] = ("GraniteForCausalLM",)
    pairs_side_by_side: ClassVar[bool] = True

    def score_scale(self, layer: int, config: Config) -> float:
        return float(config.get("attention_multiplier", 1.0))

    def stream_gain(self, read: TensorReader, layer: int, config: Config, attended: Tensor) -> Tensor:
        return torch.full_like(attended[..., :1], float(config.get("residual_multiplier", 1.0)))
