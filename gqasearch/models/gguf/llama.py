"""Llama and its kin in GGUF files: rotated pairs lie side by side there, half a head apart in transformers."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from gqasearch.models.family import Config
from gqasearch.models.gguf.architecture import (
    Architecture,
    Restore,
    common_config,
    head_dim_of,
    layer_eps,
    rms_eps,
    without_head_dim,
)
from gqasearch.models.gguf.keys import Keys
from gqasearch.models.gguf.rope import require_full_rotary, rope_of


class Paired(Architecture):
    """Rows of q and k reordered by the converter: 0, d/2, 1, d/2 + 1, ... of every head."""

    def restore(self, name: str, config: Config) -> Restore | None:
        if "self_attn.q_proj." not in name and "self_attn.k_proj." not in name:
            return None
        half = head_dim_of(config) // 2

        def apart(tensor: Tensor) -> Tensor:
            by_half: Tensor = tensor.unflatten(0, (-1, half, 2)).transpose(1, 2)
            return by_half.flatten(0, 2)

        return apart


class Llama(Paired):
    """Llama, Mistral, and what else llama.cpp calls one."""

    name: ClassVar[str] = "llama"

    def config(self, keys: Keys) -> Config:
        """A Mistral, the same network, where the heads do not fill the hidden size: engines take no such Llama."""
        config = common_config(keys, "LlamaForCausalLM", "llama") | {"rms_norm_eps": rms_eps(keys)}
        biases = {field: keys.has_tensor(f"blk.0.{tensor}") for field, tensor in _LLAMA_BIASES.items()}
        fills = config["num_attention_heads"] * head_dim_of(config) == config["hidden_size"]
        if fills or any(biases.values()):
            config |= biases
        else:
            config |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None}
        require_full_rotary(keys, config)
        return config | {"head_dim": head_dim_of(config), "rope_parameters": rope_of(keys, config)}


_LLAMA_BIASES = {"attention_bias": "attn_q.bias", "mlp_bias": "ffn_up.bias"}


class Granite(Paired):
    """Llama with factors on embeddings, scores, residuals and logits."""

    name: ClassVar[str] = "granite"

    def config(self, keys: Keys) -> Config:
        config = without_head_dim(common_config(keys, "GraniteForCausalLM", "granite"), keys)
        require_full_rotary(keys, config)
        return config | {
            "rms_norm_eps": rms_eps(keys),
            "rope_parameters": rope_of(keys, config),
            "attention_multiplier": keys.real("attention.scale", head_dim_of(config) ** -0.5),
            "embedding_multiplier": keys.real("embedding_scale", 1.0),
            "residual_multiplier": keys.real("residual_scale", 1.0),
            "logits_scaling": keys.real("logit_scale", 1.0),
            "attention_bias": keys.has_tensor("blk.0.attn_q.bias"),
            "mlp_bias": keys.has_tensor("blk.0.ffn_up.bias"),
        }


class SmolLM3(Paired):
    """Llama in which every fourth layer uses no RoPE; llama.cpp knows that by the name alone."""

    name: ClassVar[str] = "smollm3"

    def config(self, keys: Keys) -> Config:
        config = without_head_dim(common_config(keys, "SmolLM3ForCausalLM", "smollm3"), keys)
        require_full_rotary(keys, config)
        uses_rope = [int((layer + 1) % 4 != 0) for layer in range(config["num_hidden_layers"])]
        return config | {
            "rms_norm_eps": rms_eps(keys),
            "rope_parameters": rope_of(keys, config),
            "no_rope_layer_interval": 4,
            "no_rope_layers": uses_rope,
            "attention_bias": keys.has_tensor("blk.0.attn_q.bias"),
        }


class Olmo(Paired):
    """Llama with norms that have no weights."""

    name: ClassVar[str] = "olmo"

    def config(self, keys: Keys) -> Config:
        config = without_head_dim(common_config(keys, "OlmoForCausalLM", "olmo"), keys)
        layer_eps(keys)  # always 1e-5
        require_full_rotary(keys, config)
        clip = keys.real("attention.clamp_kqv", 0.0) or None
        return config | {"clip_qkv": clip, "rope_parameters": rope_of(keys, config)}
