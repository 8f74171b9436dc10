"""Command R (Cohere, 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gqasearch.models.family import Config
from gqasearch.models.interleaved import halves, neighbours, with_neighbours
from gqasearch.models.layer import HeadGeometry, LayerWeights
from gqasearch.models.layer_norms import OwnLayerNorms


@dataclass(frozen=True)
class Cohere(OwnLayerNorms):
    """RoPE turns neighbouring dimensions (2i, 2i + 1) instead of (i, i + d/2); attention and MLP side by side.

    With ``use_qk_norm`` (Command R+) every head has a LayerNorm, whose weights lie together, (heads, d).
    """

    name: ClassVar[str] = "cohere"
    architectures: ClassVar[tuple[str, ...]] = ("CohereForCausalLM",)
    default_rope_theta: ClassVar[float] = 500_000.0

    def has_own_norms(self, config: Config) -> bool:
        return bool(config.get("use_qk_norm"))

    def norms_of(self, stored: list[Tensor]) -> Tensor:
        return halves(stored[0], stored[0].shape[1])

    def stored_norms(self, norm: str, weights: Tensor) -> dict[str, Tensor]:
        return {norm: weights}

    def split_heads(self, got: Mapping[str, Tensor], shape: HeadGeometry) -> dict[str, Tensor]:
        split = super().split_heads(got, shape)
        return {role: one if role[0] == "v" else halves(one, shape.head_dim) for role, one in split.items()}

    def cached_order(self, head_dim: int, rotary_dim: int) -> Tensor:
        return neighbours(head_dim, head_dim)

    def join_heads(self, weights: LayerWeights) -> dict[str, Tensor]:
        return super().join_heads(with_neighbours(weights, weights.head_dim))
