"""Command R (Cohere, 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gqasearch.models.family import Config, Family, refuse_norms
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
        """The pairs' first dimensions, then their second ones, as everywhere else in gqasearch."""
        return {
            role: heads if role.startswith("v.") else torch.cat([heads[:, ::2], heads[:, 1::2]], dim=1)
            for role, heads in super().split_heads(got, shape).items()
        }

    def cached_order(self, head_dim: int) -> Tensor:
        order: Tensor = torch.arange(head_dim).unflatten(0, (2, -1)).T.flatten()
        return order

    def join_heads(self, weights: LayerWeights) -> dict[str, Tensor]:
        """Pairs side by side, as stored."""

        def beside(heads: Tensor | None) -> Tensor | None:
            return None if heads is None else heads.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)

        turned: dict[str, Any] = {name: beside(getattr(weights, name)) for name in ("q", "k", "q_bias", "k_bias")}
        return super().join_heads(replace(weights, **turned))
