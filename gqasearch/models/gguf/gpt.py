"""GPT-2, GPT-NeoX, Falcon, StarCoder 2, StableLM and Command R in GGUF files."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.models.family import Config
from gqasearch.models.gguf.architecture import (
    Architecture,
    Restore,
    common_config,
    head_dim_of,
    layer_eps,
    without_head_dim,
)
from gqasearch.models.gguf.keys import Keys
from gqasearch.models.gguf.rope import partial_rotary, require_full_rotary, rope_of

CONV1D = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")


class GPT2(Architecture):
    """transformers stores GPT-2's matrices transposed, llama.cpp as all others."""

    name: ClassVar[str] = "gpt2"

    def config(self, keys: Keys) -> Config:
        common = without_head_dim(common_config(keys, "GPT2LMHeadModel", "gpt2"), keys)
        return {
            "architectures": common["architectures"],
            "model_type": "gpt2",
            "n_embd": common["hidden_size"],
            "n_head": common["num_attention_heads"],
            "n_inner": keys.rows("blk.0.ffn_up.weight"),  # the key is 4 n_embd whatever the model has
            "n_layer": common["num_hidden_layers"],
            "n_positions": keys.rows("position_embd.weight"),
            "vocab_size": common["vocab_size"],
            "tie_word_embeddings": common["tie_word_embeddings"],
            "layer_norm_epsilon": layer_eps(keys),
            "activation_function": "gelu_new",
        }

    def restore(self, name: str, config: Config) -> Restore | None:
        return Tensor.t if name.endswith(CONV1D) else None

    def stored_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[::-1] if name.endswith(CONV1D) else shape


class GPTNeoX(Architecture):
    """q, k, v of a head after one another in transformers; in the file all q, all k, all v."""

    name: ClassVar[str] = "gptneox"

    def config(self, keys: Keys) -> Config:
        config = without_head_dim(common_config(keys, "GPTNeoXForCausalLM", "gpt_neox"), keys)
        rope = rope_of(keys, config) | {"partial_rotary_factor": partial_rotary(keys, config)}
        return config | {
            "layer_norm_eps": layer_eps(keys),
            "hidden_act": "gelu",
            "use_parallel_residual": keys.flag("use_parallel_residual", True),
            "rotary_pct": rope["partial_rotary_factor"],
            "rope_parameters": rope,
        }

    def restore(self, name: str, config: Config) -> Restore | None:
        if "attention.query_key_value." not in name:
            return None

        def by_head(tensor: Tensor) -> Tensor:
            heads: Tensor = tensor.unflatten(0, (3, config["num_attention_heads"], -1)).transpose(0, 1)
            return heads.flatten(0, 2)

        return by_head


class Falcon(Architecture):
    """The query heads of a KV head, then its k and v, in transformers; in the file all q, all k, all v."""

    name: ClassVar[str] = "falcon"

    def config(self, keys: Keys) -> Config:
        common = without_head_dim(common_config(keys, "FalconForCausalLM", "falcon"), keys)
        kv_heads = common.pop("num_key_value_heads")
        is_new = keys.has_tensor("blk.0.attn_norm_2.weight")
        require_full_rotary(keys, common)
        del common["intermediate_size"]
        return common | {
            "ffn_hidden_size": keys.rows("blk.0.ffn_up.weight"),  # the key is 4 hidden sizes whatever the model has
            "new_decoder_architecture": is_new,
            "num_kv_heads": kv_heads,
            "multi_query": kv_heads == 1 and not is_new,
            "parallel_attn": True,
            "alibi": False,
            "bias": keys.has_tensor("blk.0.attn_qkv.bias"),
            "layer_norm_epsilon": layer_eps(keys),
            "rope_parameters": rope_of(keys, common),
        }

    def restore(self, name: str, config: Config) -> Restore | None:
        if "self_attention.query_key_value." not in name:
            return None
        heads, kv_heads, d = config["num_attention_heads"], config["num_kv_heads"], head_dim_of(config)

        def by_group(tensor: Tensor) -> Tensor:
            q, k, v = tensor.split([heads * d, kv_heads * d, kv_heads * d])
            parts = [part.unflatten(0, (kv_heads, -1)) for part in (q, k, v)]
            return torch.cat(parts, dim=1).flatten(0, 1)

        return by_group


class Starcoder2(Architecture):
    """Names and tensors as in transformers; llama.cpp knows no window of its."""

    name: ClassVar[str] = "starcoder2"

    def config(self, keys: Keys) -> Config:
        config = without_head_dim(common_config(keys, "Starcoder2ForCausalLM", "starcoder2"), keys)
        require_full_rotary(keys, config)
        return config | {
            "norm_epsilon": layer_eps(keys),
            "hidden_act": "gelu_pytorch_tanh",
            "use_bias": keys.has_tensor("blk.0.attn_q.bias"),
            "sliding_window": None,
            "rope_parameters": rope_of(keys, config),
        }


class StableLm(Architecture):
    """RoPE over a part of the head; norms of single heads lie in one tensor, and are refused."""

    name: ClassVar[str] = "stablelm"

    def config(self, keys: Keys) -> Config:
        if keys.has_tensor("blk.0.attn_q_norm.weight"):
            raise UserError(
                f"{keys.file.path}: the norms of this StableLM's heads lie in one tensor, which is not taken apart; "
                "give the checkpoint that the file was made of"
            )
        config = without_head_dim(common_config(keys, "StableLmForCausalLM", "stablelm"), keys)
        rope = rope_of(keys, config) | {"partial_rotary_factor": partial_rotary(keys, config)}
        return config | {
            "layer_norm_eps": layer_eps(keys),
            "use_qkv_bias": keys.has_tensor("blk.0.attn_q.bias"),
            "use_parallel_residual": keys.flag("use_parallel_residual", True),
            "qk_layernorm": False,
            "partial_rotary_factor": rope["partial_rotary_factor"],
            "rope_parameters": rope,
        }


class CommandR(Architecture):
    """RoPE turns neighbouring dimensions in both."""

    name: ClassVar[str] = "command-r"

    def config(self, keys: Keys) -> Config:
        config = without_head_dim(common_config(keys, "CohereForCausalLM", "cohere"), keys)
        require_full_rotary(keys, config)
        return config | {
            "layer_norm_eps": layer_eps(keys),
            "logit_scale": keys.real("logit_scale"),
            "use_qk_norm": keys.has_tensor("blk.0.attn_q_norm.weight"),
            "rope_parameters": rope_of(keys, config),
        }
