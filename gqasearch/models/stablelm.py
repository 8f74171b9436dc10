"""StableLM (arXiv 2402.17834)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from gqasearch.models.family import Config, refuse_padding, rotary_fraction
from gqasearch.models.layer import HeadGeometry
from gqasearch.models.layer_norms import NORMS, OwnLayerNorms

DEFAULT_ROTARY_FRACTION = 0.25  # of transformers, where config.json names none


@dataclass(frozen=True)
class StableLm(OwnLayerNorms):
    """RoPE over a part of the head, optional biases on q, k and v (``use_qkv_bias``).

    With ``qk_layernorm`` (StableLM 2 12B) every head has a LayerNorm, whose weights are a tensor of their own.
    """

    name: ClassVar[str] = "stablelm"
    architectures: ClassVar[tuple[str, ...]] = ("StableLmForCausalLM",)

    def has_own_norms(self, config: Config) -> bool:
        return bool(config.get("qk_layernorm"))

    def norm_roles(self, config: Config) -> tuple[str, ...]:
        shape = self.geometry(config)
        counts = zip(NORMS, (shape.num_attention_heads, shape.num_kv_heads), strict=True)
        roles = tuple(f"{norm}.{head}" for norm, heads in counts for head in range(heads))
        return roles if self.has_own_norms(config) else ()

    def tensor_name(self, layer: int, role: str) -> str:
        norm, _, head = role.partition(".")
        if norm not in NORMS:
            return super().tensor_name(layer, role)
        return f"{self.attention_path(layer)}.{norm[0]}_layernorm.norms.{head}.weight"

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ("q", "k", "v") if config.get("use_qkv_bias") else ()

    def geometry(self, config: Config) -> HeadGeometry:
        shape = super().geometry(config)
        return replace(shape, rotary_dim=int(shape.head_dim * rotary_fraction(config, DEFAULT_ROTARY_FRACTION)))

    def grouped_config(self, config: Mapping[str, Any], query_heads: int, kv_heads: int, head_dim: int) -> Config:
        """The same architecture with fewer KV heads; it has no ``head_dim``, so no query heads can be added."""
        refuse_padding(config, query_heads, "StableLM")
        return super().grouped_config(config, query_heads, kv_heads, head_dim)
