"""GPT-NeoX and Pythia (arXiv 2204.06745, arXiv 2304.01373)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from gqasearch.models.family import Config, Family
from gqasearch.models.layer import HeadGeometry, LayerWeights
from gqasearch.models.neox_as_phi import neox_rotary_fraction, phi_config
from gqasearch.models.phi import Phi


@dataclass(frozen=True)
class GPTNeoX(Family):
    """RoPE over a part of the head, biases, q, k and v of each head stored together, parallel residual."""

    name: ClassVar[str] = "gpt_neox"
    architectures: ClassVar[tuple[str, ...]] = ("GPTNeoXForCausalLM",)
    projections: ClassVar[Mapping[str, str]] = {"qkv": "query_key_value", "o": "dense"}

    def attention_path(self, layer: int) -> str:
        return f"gpt_neox.layers.{layer}.attention"

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ("qkv",) if config.get("attention_bias", True) else ()

    def geometry(self, config: Config) -> HeadGeometry:
        shape = super().geometry(config)
        return replace(shape, rotary_dim=int(shape.head_dim * neox_rotary_fraction(config)))

    def split_heads(self, got: Mapping[str, Tensor], shape: HeadGeometry) -> dict[str, Tensor]:
        """From rows that lie as [head, q k v, d]."""
        heads: dict[str, Tensor] = {}
        for kind in ("weight", "bias"):
            if (fused := got.get(f"qkv.{kind}")) is not None:
                by_head = fused.view(-1, 3, shape.head_dim, *fused.shape[1:])
                heads |= {f"{role}.{kind}": by_head[:, index] for index, role in enumerate("qkv")}
        return heads

    def join_heads(self, weights: LayerWeights) -> dict[str, Tensor]:
        """Needs one K and V per query head: heads that share theirs must be tied first."""
        if weights.queries_per_kv != 1:
            raise ValueError("GPT-NeoX stores one key and one value with every query head")
        tensors = {"qkv.weight": torch.stack([weights.q, weights.k, weights.v], dim=1).flatten(0, 2)}
        if weights.q_bias is not None and weights.k_bias is not None and weights.v_bias is not None:
            tensors["qkv.bias"] = torch.stack([weights.q_bias, weights.k_bias, weights.v_bias], dim=1).flatten()
        return tensors

    def written_as(self, config: Config) -> tuple[Family, Config]:
        """A Phi, where this model can be one; raises ``UserError`` where it cannot."""
        return Phi(), phi_config(config)
