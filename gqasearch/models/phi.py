"""Phi-1, Phi-1.5 and Phi-2 (arXiv 2309.05463)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from gqasearch.models.family import Config, Family, TensorReader, refuse_padding, rotary_fraction
from gqasearch.models.layer import HeadGeometry
from gqasearch.models.layer_norms import shared_layer_norms

DEFAULT_ROTARY_FRACTION = 0.5  # of transformers, where config.json names none


@dataclass(frozen=True)
class Phi(Family):
    """RoPE over a part of the head, biases on all projections, attention and MLP side by side.

    With ``qk_layernorm`` a LayerNorm of every head, which is as wide as hidden size / heads.
    """

    name: ClassVar[str] = "phi"
    architectures: ClassVar[tuple[str, ...]] = ("PhiForCausalLM",)
    projections: ClassVar[Mapping[str, str]] = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "dense"}

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ("q", "k", "v")

    def geometry(self, config: Config) -> HeadGeometry:
        shape = super().geometry(config)
        return replace(shape, rotary_dim=int(shape.head_dim * rotary_fraction(config, DEFAULT_ROTARY_FRACTION)))

    def head_norms(self, read: TensorReader, layer: int, config: Config) -> dict[str, Any]:
        return shared_layer_norms(read, self.attention_path(layer)) if config.get("qk_layernorm") else {}

    def grouped_config(self, config: Mapping[str, Any], query_heads: int, kv_heads: int, head_dim: int) -> Config:
        if config.get("qk_layernorm"):
            refuse_padding(config, query_heads, "Phi with qk_layernorm")
        return super().grouped_config(config, query_heads, kv_heads, head_dim)
