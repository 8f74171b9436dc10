"""Persimmon (Adept, 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from gqasearch.models.family import Config, TensorReader, rotary_fraction
from gqasearch.models.head_by_head import HeadByHead
from gqasearch.models.layer import HeadGeometry
from gqasearch.models.layer_norms import shared_layer_norms

DEFAULT_ROTARY_FRACTION = 0.5  # of transformers, where config.json names none


@dataclass(frozen=True)
class Persimmon(HeadByHead):
    """One LayerNorm for all query heads and one for all keys, RoPE over a part of the head, biases, squared ReLU.

    A head's query, key and value lie side by side; of a layer with fewer KV heads all queries come first.
    """

    name: ClassVar[str] = "persimmon"
    architectures: ClassVar[tuple[str, ...]] = ("PersimmonForCausalLM",)
    has_grouped_form: ClassVar[bool] = False
    projections: ClassVar[Mapping[str, str]] = {"qkv": "query_key_value", "o": "dense"}

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ("qkv",)

    def geometry(self, config: Config) -> HeadGeometry:
        # Whatever config.json says of KV heads and of their size, transformers does not read it.
        ignored = ("num_key_value_heads", "head_dim")
        shape = super().geometry({name: value for name, value in config.items() if name not in ignored})
        return replace(shape, rotary_dim=int(shape.head_dim * rotary_fraction(config, DEFAULT_ROTARY_FRACTION)))

    def head_norms(self, read: TensorReader, layer: int, config: Config) -> dict[str, Any]:
        return shared_layer_norms(read, self.attention_path(layer)) if config.get("qk_layernorm", True) else {}
