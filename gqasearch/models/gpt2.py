"""GPT-2 (Radford et al., 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.models.family import Config, Family, TensorReader, joined_of
from gqasearch.models.layer import HeadGeometry, LayerWeights

# Names of config.json -> those of every other family.
FIELDS = {"n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}


@dataclass(frozen=True)
class GPT2(Family):
    """No RoPE: positions are learned and added to the embeddings. Biases; q, k, v stored together and transposed."""

    name: ClassVar[str] = "gpt2"
    architectures: ClassVar[tuple[str, ...]] = ("GPT2LMHeadModel",)
    has_grouped_form: ClassVar[bool] = False
    stores_transposed: ClassVar[bool] = True
    projections: ClassVar[Mapping[str, str]] = {"qkv": "c_attn", "o": "c_proj"}

    def attention_path(self, layer: int) -> str:
        return f"transformer.h.{layer}.attn"

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ("qkv",)

    def geometry(self, config: Config) -> HeadGeometry:
        if config.get("add_cross_attention"):
            raise UserError(
                "this GPT-2 has cross-attention (add_cross_attention), whose keys and values are those of another "
                "model's text; only models without it are supported"
            )
        named = {FIELDS.get(name, name): value for name, value in config.items()}
        return replace(super().geometry(named), rotary_dim=0)

    def score_scale(self, layer: int, config: Config) -> float | None:
        shape, by_layer = self.geometry(config), bool(config.get("scale_attn_by_inverse_layer_idx"))
        if config.get("scale_attn_weights", True) and not by_layer:
            return None
        own_dim = shape.head_dim // joined_of(config)
        scale = own_dim**-0.5 if config.get("scale_attn_weights", True) else 1.0
        return scale / (layer + 1) if by_layer else scale

    def read_layer(self, read: TensorReader, layer: int, config: Config) -> LayerWeights:
        """Weights are stored (inputs, outputs), the transpose of every other family's."""

        def read_as_others(name: str) -> Tensor:
            stored = read(name)
            return stored.T if stored.dim() == 2 else stored

        return super().read_layer(read_as_others, layer, config)

    def write_layer(self, weights: LayerWeights, layer: int) -> dict[str, Tensor]:
        written = super().write_layer(weights, layer)
        return {name: tensor.T.contiguous() if tensor.dim() == 2 else tensor for name, tensor in written.items()}

    def split_heads(self, got: Mapping[str, Tensor], shape: HeadGeometry) -> dict[str, Tensor]:
        """From rows that lie as [q k v, head, d]."""
        return {
            f"{role}.{kind}": heads
            for kind in ("weight", "bias")
            for role, heads in zip("qkv", got[f"qkv.{kind}"].unflatten(0, (3, -1, shape.head_dim)), strict=True)
        }

    def join_heads(self, weights: LayerWeights) -> dict[str, Tensor]:
        """To rows that lie as q, k, v, each by head: (Hq + 2 G) * d of them."""
        if weights.q_bias is None or weights.k_bias is None or weights.v_bias is None:
            raise ValueError("a layer of GPT-2 has biases")
        return {
            "qkv.weight": torch.cat([heads.flatten(0, 1) for heads in (weights.q, weights.k, weights.v)]),
            "qkv.bias": torch.cat([heads.flatten() for heads in (weights.q_bias, weights.k_bias, weights.v_bias)]),
        }
