"""Phi-3 and Phi-4-mini (arXiv 2404.14219)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.models.family import Config, Family, rotary_fraction
from gqasearch.models.layer import HeadGeometry, LayerWeights


@dataclass(frozen=True)
class Phi3(Family):
    """All q heads, all k heads and all v heads stored together, in this order; RoPE over the head or a part of it."""

    name: ClassVar[str] = "phi3"
    architectures: ClassVar[tuple[str, ...]] = ("Phi3ForCausalLM",)
    projections: ClassVar[Mapping[str, str]] = {"qkv": "qkv_proj", "o": "o_proj"}

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ()

    def geometry(self, config: Config) -> HeadGeometry:
        shape = super().geometry(config)
        return replace(shape, rotary_dim=int(shape.head_dim * rotary_fraction(config, default=1.0)))

    def short_length(self, config: Config) -> int | None:
        # transformers' default, which it prefers to what stands in the RoPE parameters
        return super().short_length({"original_max_position_embeddings": 4096, **config})

    def split_heads(self, got: Mapping[str, Tensor], shape: HeadGeometry) -> dict[str, Tensor]:
        heads = got["qkv.weight"].unflatten(0, (-1, shape.head_dim))
        counts = [shape.num_attention_heads, shape.num_kv_heads, shape.num_kv_heads]
        return dict(zip(("q.weight", "k.weight", "v.weight"), heads.split(counts), strict=True))

    def join_heads(self, weights: LayerWeights) -> dict[str, Tensor]:
        return {"qkv.weight": torch.cat([weights.q, weights.k, weights.v]).flatten(0, 1)}

    def grouped_config(self, config: Mapping[str, Any], query_heads: int, kv_heads: int, head_dim: int) -> Config:
        """The same architecture; its long RoPE is checked against hidden size / query heads, so none can be added."""
        rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
        if query_heads != config["num_attention_heads"] and "short_factor" in rope:
            raise UserError(
                "a Phi-3 with longrope cannot be query-padded: transformers checks its factors against hidden_size / "
                "num_attention_heads, which added heads change. Use groups of equal size (--equal-sizes)."
            )
        return super().grouped_config(config, query_heads, kv_heads, head_dim)
