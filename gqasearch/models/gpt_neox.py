"""GPT-NeoX and Pythia (arXiv 2204.06745, arXiv 2304.01373)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.models.family import Config, rotary_fraction
from gqasearch.models.layer import HeadGeometry, LayerWeights
from gqasearch.models.written_as_phi import PhiOrigins, WrittenAsPhi, phi_rope

DEFAULT_ROTARY_FRACTION = 0.25  # of transformers, where config.json names none


@dataclass(frozen=True)
class GPTNeoX(WrittenAsPhi):
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
        return replace(shape, rotary_dim=int(shape.head_dim * _rotary_fraction(config)))

    def join_heads(self, weights: LayerWeights) -> dict[str, Tensor]:
        if weights.queries_per_kv != 1:
            raise ValueError("GPT-NeoX stores one key and one value with every query head")
        return super().join_heads(weights)

    def phi_config(self, config: Config) -> Config:
        """Raises ``UserError`` for one whose attention and MLP follow each other."""
        if not config.get("use_parallel_residual", True):
            raise UserError(
                "GPT-NeoX has no grouped form, and this one cannot be written as a Phi: its MLP reads what attention "
                "wrote (use_parallel_residual false), Phi's does not"
            )
        kept = (
            *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"),
            *("max_position_embeddings", "initializer_range", "layer_norm_eps", "attention_dropout", "dtype"),
            *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "torch_dtype", "use_cache"),
        )
        dropout = config.get("hidden_dropout", 0.0)
        return {
            **{name: config[name] for name in kept if name in config},
            "architectures": ["PhiForCausalLM"],
            "model_type": "phi",
            "hidden_act": config.get("hidden_act", "gelu"),
            "resid_pdrop": dropout,
            "embd_pdrop": dropout,
            "qk_layernorm": False,
            **phi_rope(config, config.get("rotary_emb_base") or 10000.0, _rotary_fraction(config)),
        }

    def phi_origins(self, config: Config) -> PhiOrigins:
        return PhiOrigins(
            layers="gpt_neox.layers",
            embeddings="gpt_neox.embed_in",
            final_norm="gpt_neox.final_layer_norm",
            outputs=("embed_out.weight", "lm_head.weight"),  # as published, and as transformers 5 may write it
            qkv="attention.query_key_value",
            dense="attention.dense",
            up="mlp.dense_h_to_4h",
            down="mlp.dense_4h_to_h",
            attention_norm="input_layernorm",
            mlp_norm="post_attention_layernorm",
            attention_biases=bool(self.bias_roles(config)),
            mlp_biases=True,
            queries_per_kv=1,
        )


def _rotary_fraction(config: Mapping[str, Any]) -> float:
    return rotary_fraction(config, float(config.get("rotary_pct") or DEFAULT_ROTARY_FRACTION))
