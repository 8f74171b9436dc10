"""StableLM (arXiv 2402.17834)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from gqasearch.models.family import Config, Family, refuse_norms, refuse_padding, rotary_fraction
from gqasearch.models.layer import HeadGeometry

DEFAULT_ROTARY_FRACTION = 0.25  # of transformers, where config.json names none


@dataclass(frozen=True)
class StableLm(Family):
    """RoPE over a part of the head, optional biases on q, k and v (``use_qkv_bias``)."""

    name: ClassVar[str] = "stablelm"
    architectures: ClassVar[tuple[str, ...]] = ("StableLmForCausalLM",)

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ("q", "k", "v") if config.get("use_qkv_bias") else ()

    def geometry(self, config: Config) -> HeadGeometry:
        refuse_norms(config, "qk_layernorm", "StableLM", "gives every head a LayerNorm with weights of its own")
        shape = super().geometry(config)
        return replace(shape, rotary_dim=int(shape.head_dim * rotary_fraction(config, DEFAULT_ROTARY_FRACTION)))

    def grouped_config(self, config: Mapping[str, Any], query_heads: int, kv_heads: int, head_dim: int) -> Config:
        """The same architecture with fewer KV heads; it has no ``head_dim``, so no query heads can be added."""
        refuse_padding(config, query_heads, "StableLM")
        return super().grouped_config(config, query_heads, kv_heads, head_dim)
