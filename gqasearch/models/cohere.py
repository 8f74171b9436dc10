"""Command R (Cohere, 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gqasearch.models.family import Config, Family, refuse_norms
from gqasearch.models.interleaved import halves, neighbours, with_neighbours
from gqasearch.models.layer import HeadGeometry, LayerWeights


@dataclass(frozen=True)
class Cohere(Family):
    """RoPE turns neighbouring dimensions (2i, 2i + 1) instead of (i, i + d/2); attention and MLP side by side."""

    name: ClassVar[str] = "cohere"
    architectures: ClassVar[tuple[str, ...]] = ("CohereForCausalLM",)
    default_rope_theta: ClassVar[float] = 500_000.0

    def geometry(self, config: Config) -> HeadGeometry:
        refuse_norms(config, "use_qk_norm", "Cohere model", "gives every head a LayerNorm with weights of its own")
        return super().geometry(config)

    def split_heads(self, got: Mapping[str, Tensor], shape: HeadGeometry) -> dict[str, Tensor]:
        split = super().split_heads(got, shape)
        return {role: one if role[0] == "v" else halves(one, shape.head_dim) for role, one in split.items()}

    def cached_order(self, head_dim: int, rotary_dim: int) -> Tensor:
        return neighbours(head_dim, head_dim)

    def join_heads(self, weights: LayerWeights) -> dict[str, Tensor]:
        return super().join_heads(with_neighbours(weights, weights.head_dim))
