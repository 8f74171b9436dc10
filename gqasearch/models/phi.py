"""Phi-1, Phi-1.5 and Phi-2 (arXiv 2309.05463)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from gqasearch.models.family import Config, Family, refuse_norms, rotary_fraction
from gqasearch.models.layer import HeadGeometry

DEFAULT_ROTARY_FRACTION = 0.5  # of transformers, where config.json names none


@dataclass(frozen=True)
class Phi(Family):
    """RoPE over a part of the head, biases on all projections, attention and MLP side by side."""

    name: ClassVar[str] = "phi"
    architectures: ClassVar[tuple[str, ...]] = ("PhiForCausalLM",)
    projections: ClassVar[Mapping[str, str]] = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "dense"}

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ("q", "k", "v")

    def geometry(self, config: Config) -> HeadGeometry:
        refuse_norms(config, "qk_layernorm", "Phi", "gives every head a LayerNorm, which also subtracts its mean")
        shape = super().geometry(config)
        return replace(shape, rotary_dim=int(shape.head_dim * rotary_fraction(config, DEFAULT_ROTARY_FRACTION)))
