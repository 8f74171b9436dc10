"""GPT-BigCode (arXiv 2301.03988) with a KV head for every query head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.models.family import Config, Family
from gqasearch.models.gpt2 import FIELDS
from gqasearch.models.layer import HeadGeometry, LayerWeights


@dataclass(frozen=True)
class GPTBigCode(Family):
    """GPT-2's network. A head's query, key and value lie side by side; of a layer with fewer KV heads all queries come
    first, then all keys, then all values, as where there is one KV head.
    """

    name: ClassVar[str] = "gpt_bigcode"
    architectures: ClassVar[tuple[str, ...]] = ("GPTBigCodeForCausalLM",)
    has_grouped_form: ClassVar[bool] = False
    projections: ClassVar[Mapping[str, str]] = {"qkv": "c_attn", "o": "c_proj"}

    def attention_path(self, layer: int) -> str:
        return f"transformer.h.{layer}.attn"

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ("qkv",)

    def geometry(self, config: Config) -> HeadGeometry:
        if config.get("multi_query", True):
            raise UserError(
                "this GPT-BigCode (StarCoder, SantaCoder and their kind) has one KV head already (multi_query), and "
                "there is nothing to merge; only models with one for every query head (multi_query false) are supported"
            )
        if config.get("add_cross_attention"):
            raise UserError(
                "this GPT-BigCode has cross-attention (add_cross_attention), whose keys and values are those of "
                "another model's text; only models without it are supported"
            )
        # transformers writes a num_key_value_heads beside, which may be that of its default number of heads.
        named = {FIELDS.get(name, name): value for name, value in config.items() if name != "num_key_value_heads"}
        return replace(super().geometry(named), rotary_dim=0)

    def score_scale(self, layer: int, config: Config) -> float | None:
        return None if config.get("scale_attn_weights", True) else 1.0

    def split_heads(self, got: Mapping[str, Tensor], shape: HeadGeometry) -> dict[str, Tensor]:
        """From rows that lie as [head, q k v, d]."""
        return {
            f"{role}.{kind}": heads
            for kind in ("weight", "bias")
            for role, heads in zip(
                "qkv", got[f"qkv.{kind}"].unflatten(0, (-1, 3, shape.head_dim)).unbind(1), strict=True
            )
        }

    def join_heads(self, weights: LayerWeights) -> dict[str, Tensor]:
        """The reverse; where queries outnumber keys, rows lie as q, k, v, each by head."""
        joined = {}
        for kind, heads in (("weight", (weights.q, weights.k, weights.v)), ("bias", _biases(weights))):
            if len(weights.k) == len(weights.q):
                joined[f"qkv.{kind}"] = torch.stack(heads, 1).flatten(0, 2)
            else:
                joined[f"qkv.{kind}"] = torch.cat([part.flatten(0, 1) for part in heads])
        return joined


def _biases(weights: LayerWeights) -> tuple[Tensor, Tensor, Tensor]:
    if weights.q_bias is None or weights.k_bias is None or weights.v_bias is None:
        raise ValueError("a layer of GPT-BigCode has biases")
    return weights.q_bias, weights.k_bias, weights.v_bias
