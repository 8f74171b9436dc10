"""Qwen 2 and 3 in GGUF files: tensors as transformers has them."""

from __future__ import annotations

from typing import ClassVar

from gqasearch.models.family import Config
from gqasearch.models.gguf.architecture import Architecture, common_config, head_dim_of, rms_eps, without_head_dim
from gqasearch.models.gguf.keys import Keys
from gqasearch.models.gguf.rope import require_full_rotary, rope_of


class Qwen2(Architecture):
    """Biases on q, k and v, always."""

    name: ClassVar[str] = "qwen2"

    def config(self, keys: Keys) -> Config:
        config = without_head_dim(common_config(keys, "Qwen2ForCausalLM", "qwen2"), keys)
        require_full_rotary(keys, config)
        return config | {
            "rms_norm_eps": rms_eps(keys),
            "rope_parameters": rope_of(keys, config),
            "use_sliding_window": False,
        }


class Qwen3(Architecture):
    """A norm on every head's q and k; a head size that is the file's ``key_length``, whatever the hidden size."""

    name: ClassVar[str] = "qwen3"

    def config(self, keys: Keys) -> Config:
        config = common_config(keys, "Qwen3ForCausalLM", "qwen3")
        require_full_rotary(keys, config)
        return config | {
            "head_dim": head_dim_of(config),
            "rms_norm_eps": rms_eps(keys),
            "rope_parameters": rope_of(keys, config),
            "attention_bias": keys.has_tensor("blk.0.attn_q.bias"),
            "use_sliding_window": False,
        }
