"""GPT-J (Wang and Komatsuzaki, 2021) and CodeGen (arXiv 2203.13474), which are written as a Phi."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.models.family import Config
from gqasearch.models.gpt2 import FIELDS
from gqasearch.models.interleaved import halves, with_neighbours
from gqasearch.models.layer import HeadGeometry, LayerWeights
from gqasearch.models.written_as_phi import PhiOrigins, WrittenAsPhi, phi_rope

PARTS = 4  # of CodeGen's rows, each with the queries, values and keys of a quarter of the heads
DEFAULT_ROTARY_DIM = 64  # of transformers, where config.json names none
THETA = 10000.0


@dataclass(frozen=True)
class GPTJ(WrittenAsPhi):
    """RoPE over neighbouring dimensions of a part of the head, no biases in attention, parallel residual."""

    name: ClassVar[str] = "gptj"
    architectures: ClassVar[tuple[str, ...]] = ("GPTJForCausalLM",)
    layers_give_tuples: ClassVar[bool] = True
    projections: ClassVar[Mapping[str, str]] = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}

    def attention_path(self, layer: int) -> str:
        return f"transformer.h.{layer}.attn"

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ()

    def geometry(self, config: Config) -> HeadGeometry:
        named = {FIELDS.get(name, name): value for name, value in config.items()}
        rotary_dim = config.get("rotary_dim", DEFAULT_ROTARY_DIM)
        shape = super().geometry(named)
        if type(rotary_dim) is not int or not 0 < rotary_dim <= shape.head_dim or rotary_dim % 2:
            raise UserError(
                f"config.json of this {self.name} model: rotary_dim must be an even number from 2 to the size of a "
                f"head ({shape.head_dim}), got {rotary_dim!r}"
            )
        return replace(shape, rotary_dim=rotary_dim)

    def turns_of(self, positions: int, config: Config) -> tuple[Tensor, Tensor]:
        rotary_dim = self.geometry(config).rotary_dim
        rates = THETA ** (-torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim)
        angles = torch.arange(positions)[:, None] * torch.cat([rates, rates])
        return angles.cos(), angles.sin()

    def split_heads(self, got: Mapping[str, Tensor], shape: HeadGeometry) -> dict[str, Tensor]:
        split = {name: got[name].unflatten(0, (-1, shape.head_dim)) for name in ("q.weight", "k.weight", "v.weight")}
        return {role: one if role[0] == "v" else halves(one, shape.rotary_dim) for role, one in split.items()}

    def join_heads(self, weights: LayerWeights) -> dict[str, Tensor]:
        stored = with_neighbours(weights, weights.rotary_dim)
        return {f"{role}.weight": getattr(stored, role).flatten(0, 1) for role in "qkv"}

    def phi_config(self, config: Config) -> Config:
        shape = self.geometry(config)
        kept = ("vocab_size", "initializer_range", "dtype", "torch_dtype", "use_cache", "tie_word_embeddings")
        tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
        dropped = {
            "resid_pdrop": "resid_pdrop",
            "embd_pdrop": "embd_pdrop",
            "attn_pdrop": "attention_dropout",
            "layer_norm_epsilon": "layer_norm_eps",
        }
        return {
            "tie_word_embeddings": False,
            **{name: config[name] for name in (*kept, *tokens) if name in config},
            **{phi: config[own] for own, phi in dropped.items() if own in config},
            "architectures": ["PhiForCausalLM"],
            "model_type": "phi",
            "hidden_size": shape.hidden_size,
            "intermediate_size": config.get("n_inner") or 4 * shape.hidden_size,
            "num_hidden_layers": shape.num_layers,
            "num_attention_heads": shape.num_attention_heads,
            "max_position_embeddings": config.get("n_positions", 2048),
            "hidden_act": config.get("activation_function", "gelu_new"),
            "qk_layernorm": False,
            **phi_rope({}, THETA, shape.rotary_dim / shape.head_dim),
        }

    def phi_origins(self, config: Config) -> PhiOrigins:
        return PhiOrigins(
            layers="transformer.h",
            embeddings="transformer.wte",
            final_norm="transformer.ln_f",
            outputs=("lm_head.weight",),
            output_bias=True,
            qkv="attn.{}_proj" if "q" in self.projections else "attn.qkv_proj",
            dense="attn.out_proj",
            up="mlp.fc_in",
            down="mlp.fc_out",
            attention_norm="ln_1",
            mlp_norm="ln_1",
            attention_biases=False,
            mlp_biases=True,
            queries_per_kv=1,
        )


@dataclass(frozen=True)
class CodeGen(GPTJ):
    """GPT-J's network, whose rows of q, v and k lie in four parts, as they did on four devices."""

    name: ClassVar[str] = "codegen"
    architectures: ClassVar[tuple[str, ...]] = ("CodeGenForCausalLM",)
    projections: ClassVar[Mapping[str, str]] = {"qkv": "qkv_proj", "o": "out_proj"}

    def geometry(self, config: Config) -> HeadGeometry:
        shape = super().geometry(config)
        if shape.num_attention_heads % PARTS:
            raise UserError(f"a CodeGen's heads lie in {PARTS} parts, which {shape.num_attention_heads} heads are not")
        return shape

    def split_heads(self, got: Mapping[str, Tensor], shape: HeadGeometry) -> dict[str, Tensor]:
        """From rows that lie as [part, q v k, head, d]."""
        parts = got["qkv.weight"].unflatten(0, (PARTS, 3, -1, shape.head_dim))
        heads = dict(zip(("q.weight", "v.weight", "k.weight"), parts.unbind(1), strict=True))
        return super().split_heads({role: part.flatten(0, 2) for role, part in heads.items()}, shape)

    def join_heads(self, weights: LayerWeights) -> dict[str, Tensor]:
        rows = super().join_heads(weights)
        parts = [rows[f"{role}.weight"].unflatten(0, (PARTS, -1)) for role in "qvk"]
        return {"qkv.weight": torch.stack(parts, 1).flatten(0, 2)}
