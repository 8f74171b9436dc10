"""OPT (arXiv 2205.01068)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from gqasearch.models.family import Config, Family
from gqasearch.models.layer import HeadGeometry


@dataclass(frozen=True)
class OPT(Family):
    """No RoPE: positions are learned and added to the embeddings. Biases."""

    name: ClassVar[str] = "opt"
    architectures: ClassVar[tuple[str, ...]] = ("OPTForCausalLM",)
    has_grouped_form: ClassVar[bool] = False
    projections: ClassVar[Mapping[str, str]] = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}

    def attention_path(self, layer: int) -> str:
        return f"model.decoder.layers.{layer}.self_attn"

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ("q", "k", "v") if config.get("enable_bias", True) else ()

    def geometry(self, config: Config) -> HeadGeometry:
        return replace(super().geometry(config), rotary_dim=0)
