"""Llama (arXiv 2302.13971) and models that use its code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gqasearch.errors import UserError
from gqasearch.models.family import Config, Family


@dataclass(frozen=True)
class Llama(Family):
    """RoPE over the whole head, RMSNorm, optional biases (``attention_bias``)."""

    name: ClassVar[str] = "llama"
    architectures: ClassVar[tuple[str, ...]] = ("LlamaForCausalLM",)
    pairs_side_by_side: ClassVar[bool] = True

    def grouped_config(self, config: Mapping[str, Any], query_heads: int, kv_heads: int, head_dim: int) -> Config:
        """A Llama, or a Mistral when added query heads do not fill the hidden size.

        transformers 5 refuses a Llama whose hidden size is not divisible by the head count, and
        CTranslate2's Llama loader ignores ``head_dim``; Mistral is the same network without both.
        """
        grouped = super().grouped_config(config, query_heads, kv_heads, head_dim)
        if query_heads in (config["num_attention_heads"], config["hidden_size"] / head_dim):
            return grouped
        if config.get("attention_bias") or config.get("mlp_bias"):
            raise UserError(
                "a Llama with biases cannot be query-padded: Mistral, the stock architecture that takes "
                "padded heads, has none. Use groups of equal size (--equal-sizes)."
            )
        for name in ("attention_bias", "mlp_bias", "pretraining_tp"):
            grouped.pop(name, None)
        grouped |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None}
        return grouped
