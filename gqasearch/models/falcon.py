"""Falcon with rotary embeddings (arXiv 2311.16867, arXiv 2407.14885)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from gqasearch.errors import UserError
from gqasearch.models.family import Config
from gqasearch.models.layer import HeadGeometry
from gqasearch.models.written_as_phi import PhiOrigins, WrittenAsPhi, phi_rope

# Of transformers, where config.json of a published checkpoint names none.
DEFAULT_CONTEXT = 2048
DEFAULT_TOKEN = 11


@dataclass(frozen=True)
class Falcon(WrittenAsPhi):
    """RoPE over the whole head, parallel residual, q, k and v of each KV head stored together, optional biases.

    Its own code in transformers caches K and V of every query head, so a grouped one is no Falcon.
    """

    name: ClassVar[str] = "falcon"
    architectures: ClassVar[tuple[str, ...]] = ("FalconForCausalLM",)
    layers_give_tuples: ClassVar[bool] = True
    projections: ClassVar[Mapping[str, str]] = {"qkv": "query_key_value", "o": "dense"}

    def attention_path(self, layer: int) -> str:
        return f"transformer.h.{layer}.self_attention"

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ("qkv",) if config.get("bias") else ()

    def context_length(self, config: Config) -> int | None:
        return super().context_length({"max_position_embeddings": DEFAULT_CONTEXT, **config})

    def geometry(self, config: Config) -> HeadGeometry:
        """Raises ``UserError``, too, for ALiBi, for layers of another build, and for one KV head."""
        _refuse_other_layers(config)
        heads = self._count(config, "num_attention_heads")
        kv_heads = self._count(config, "num_kv_heads", default=heads)
        if not config.get("new_decoder_architecture"):
            if config.get("multi_query", True):
                kv_heads = 1
            elif kv_heads != heads:
                raise UserError(
                    f"this Falcon has a key and a value for every query head (multi_query false), so num_kv_heads must "
                    f"be num_attention_heads={heads}, got {kv_heads}"
                )
        if kv_heads == 1:
            raise UserError("all query heads of this Falcon share one KV head already (multi_query): none is to merge")
        return super().geometry({**config, "num_key_value_heads": kv_heads, "head_dim": None})

    def phi_config(self, config: Config) -> Config:
        shape = self.geometry(config)
        kept = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        known = ("initializer_range", "attention_dropout", "dtype", "torch_dtype", "use_cache", "pad_token_id")
        return {
            **{name: config[name] for name in (*kept, *known) if name in config},
            "architectures": ["PhiForCausalLM"],
            "model_type": "phi",
            "num_key_value_heads": shape.num_kv_heads,
            "intermediate_size": config.get("ffn_hidden_size") or 4 * shape.hidden_size,
            "hidden_act": config.get("activation") or "gelu",
            "layer_norm_eps": config.get("layer_norm_epsilon") or 1e-5,
            "max_position_embeddings": self.context_length(config),
            "tie_word_embeddings": config.get("tie_word_embeddings", True),
            "bos_token_id": config.get("bos_token_id", DEFAULT_TOKEN),
            "eos_token_id": config.get("eos_token_id", DEFAULT_TOKEN),
            "resid_pdrop": config.get("hidden_dropout") or 0.0,
            "embd_pdrop": 0.0,
            "qk_layernorm": False,
            **phi_rope(config, config.get("rope_theta") or 10000.0, 1.0),
        }

    def phi_origins(self, config: Config) -> PhiOrigins:
        biases, two = bool(config.get("bias")), _has_two_norms(config)
        return PhiOrigins(
            layers="transformer.h",
            embeddings="transformer.word_embeddings",
            final_norm="transformer.ln_f",
            outputs=("lm_head.weight",),
            qkv="self_attention.query_key_value",
            dense="self_attention.dense",
            up="mlp.dense_h_to_4h",
            down="mlp.dense_4h_to_h",
            attention_norm="ln_attn" if two else "input_layernorm",
            mlp_norm="ln_mlp" if two else "input_layernorm",
            attention_biases=biases,
            mlp_biases=biases,
            queries_per_kv=self.geometry(config).queries_per_kv,
        )


def _has_two_norms(config: Config) -> bool:
    """Whether attention and MLP have a LayerNorm each."""
    return bool(config.get("new_decoder_architecture")) and config.get("num_ln_in_parallel_attn") in (None, 2)


def _refuse_other_layers(config: Config) -> None:
    """Raise ``UserError`` for layers that no Phi computes."""
    if config.get("alibi"):
        raise UserError(
            "this Falcon has ALiBi (alibi true): the bias on a head's scores belongs to the head's place among the "
            "query heads, which a grouped checkpoint changes"
        )
    if not config.get("parallel_attn", True):
        raise UserError(
            "Falcon has no grouped form, and this one cannot be written as a Phi: its MLP reads what attention wrote "
            "(parallel_attn false), Phi's does not"
        )
    norms = config.get("num_ln_in_parallel_attn")
    if norms not in ((None, 1, 2) if config.get("new_decoder_architecture") else (None, 1)):
        raise UserError(
            f"config.json of this falcon model: num_ln_in_parallel_attn is 1, or 2 with new_decoder_architecture; "
            f"got {norms!r}"
        )
