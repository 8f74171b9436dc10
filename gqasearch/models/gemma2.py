"""Gemma 2 (arXiv 2408.00118)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from gqasearch.models.family import Config, Family, TensorReader, divides_hidden_size

# Of transformers, where config.json names none.
DEFAULT_QUERY_SCALAR = 256
DEFAULT_NORM_EPS = 1e-6


@dataclass(frozen=True)
class Gemma2(Family):
    """A score scale of its own, soft-capped scores, a norm after attention, sliding windows in every other layer.

    Errors of merges are estimates here: of scores before their soft cap, of outputs before the norm that follows.
    """

    name: ClassVar[str] = "gemma2"
    architectures: ClassVar[tuple[str, ...]] = ("Gemma2ForCausalLM",)

    def score_scale(self, layer: int, config: Config) -> float | None:
        return 1 / math.sqrt(config.get("query_pre_attn_scalar") or DEFAULT_QUERY_SCALAR)

    def stream_gain(self, read: TensorReader, layer: int, config: Config, attended: Tensor) -> Tensor | None:
        """That of the RMS norm behind attention, whose stored weights are added to 1."""
        weight = read(f"model.layers.{layer}.post_attention_layernorm.weight")
        wide = attended.to(torch.promote_types(attended.dtype, torch.float32))
        mean = wide.square().mean(-1, keepdim=True) + float(config.get("rms_norm_eps") or DEFAULT_NORM_EPS)
        return (1 + weight.to(wide)) * mean.rsqrt()

    def takes_query_heads(self, config: Config, query_heads: int) -> bool:
        return int(config["hidden_size"]) % query_heads == 0

    def grouped_config(self, config: Mapping[str, Any], query_heads: int, kv_heads: int, head_dim: int) -> Config:
        """The same architecture; transformers 5 takes only head counts that divide the hidden size."""
        divides_hidden_size(config, query_heads, "Gemma 2 and 3")
        return super().grouped_config(config, query_heads, kv_heads, head_dim)
