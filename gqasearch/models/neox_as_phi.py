"""GPT-NeoX in the words of Phi, which is the same network in a form that has grouped KV heads.

Both add attention and MLP to the stream side by side. GPT-NeoX gives each a LayerNorm of its own; Phi has one for
both. What the two norms share is the normed input; their weights and biases move into the projections that read it:

    W (norm * x + shift) + b   =   (W diag(norm)) x + (b + W shift)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.models.family import Config, TensorReader, rotary_fraction
from gqasearch.models.layer import LayerWeights

DEFAULT_ROTARY_FRACTION = 0.25  # of transformers' GPT-NeoX, where config.json names none
LAYER = re.compile(r"gpt_neox\.layers\.(\d+)\.")
LAYER_OF_PHI = re.compile(r"model\.layers\.(\d+)")
# Tensors of Phi -> those of GPT-NeoX whose bytes they are; within a layer, and outside.
RENAMED = {
    "self_attn.dense.bias": "attention.dense.bias",
    "mlp.fc2.weight": "mlp.dense_4h_to_h.weight",
    "mlp.fc2.bias": "mlp.dense_4h_to_h.bias",
}
OUTSIDE = {
    "model.embed_tokens.weight": ("gpt_neox.embed_in.weight",),
    "model.final_layernorm.weight": ("gpt_neox.final_layer_norm.weight",),
    "model.final_layernorm.bias": ("gpt_neox.final_layer_norm.bias",),
    "lm_head.weight": ("embed_out.weight", "lm_head.weight"),  # as published, and as transformers 5 may write it
}
# The same for tensors that are computed: where they lie, and what their dtype is.
MADE = {
    **{
        f"self_attn.{role}_proj.{kind}": f"attention.query_key_value.{kind}"
        for role in "qkv"
        for kind in ("weight", "bias")
    },
    "self_attn.dense.weight": "attention.dense.weight",
    "mlp.fc1.weight": "mlp.dense_h_to_4h.weight",
    "mlp.fc1.bias": "mlp.dense_h_to_4h.bias",
    "input_layernorm.weight": "input_layernorm.weight",
    "input_layernorm.bias": "input_layernorm.bias",
}


def neox_rotary_fraction(config: Mapping[str, Any]) -> float:
    """The part of a GPT-NeoX's head that RoPE turns."""
    return rotary_fraction(config, float(config.get("rotary_pct") or DEFAULT_ROTARY_FRACTION))


def phi_config(config: Mapping[str, Any]) -> Config:
    """``config.json`` of the Phi that computes what this GPT-NeoX does.

    Raises ``UserError`` for one whose attention and MLP follow each other, and for one without biases.
    """
    if not config.get("use_parallel_residual", True):
        raise UserError(f"{_REFUSED} its MLP reads what attention wrote (use_parallel_residual false), Phi's does not")
    if not config.get("attention_bias", True):
        raise UserError(f"{_REFUSED} it has no biases (attention_bias false), Phi has them")
    rope = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    theta = rope.pop("rope_theta", None) or config.get("rotary_emb_base") or 10000.0
    fraction = neox_rotary_fraction(config)
    kept = (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "use_cache"),
        *("max_position_embeddings", "initializer_range", "layer_norm_eps", "attention_dropout", "dtype"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "torch_dtype"),
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
        "partial_rotary_factor": fraction,
        "rope_parameters": {"rope_type": "default", **rope, "rope_theta": theta, "partial_rotary_factor": fraction},
    }


_REFUSED = "GPT-NeoX has no grouped form, and this one cannot be written as a Phi:"


def phi_names(stored: Mapping[str, str], *, tied: bool) -> dict[str, str]:
    """Name of every tensor of the Phi -> the tensor of the GPT-NeoX that it comes from; ``stored``: all its names;
    ``tied``: the output's weight is that of the embeddings.

    The masks and frequencies that old checkpoints store are left out. The output's bias, which GPT-NeoX has not, comes
    from the output's weight.
    """
    layers = sorted({int(found[1]) for name in stored if (found := LAYER.match(name))})
    names = {
        f"model.layers.{layer}.{phi}": f"gpt_neox.layers.{layer}.{neox}"
        for layer in layers
        for phi, neox in {**RENAMED, **MADE}.items()
    }
    for phi, choices in OUTSIDE.items():
        names[phi] = next((name for name in choices if name in stored), choices[0])
    if tied and names["lm_head.weight"] not in stored:
        del names["lm_head.weight"]
    names["lm_head.bias"] = names.get("lm_head.weight", names["model.embed_tokens.weight"])
    return names


def fold_norm(weights: LayerWeights, read: TensorReader, layer: int) -> LayerWeights:
    """The layer with the affine part of its attention's LayerNorm in q, k and v: (H, d, D), biases (H, d)."""
    norm, shift = _norm(read, layer, "input_layernorm", weights.q.dtype)

    def bias(heads: Tensor, own: Tensor | None) -> Tensor:
        moved = heads @ shift
        return moved if own is None else own + moved

    return replace(
        weights,
        q=weights.q * norm,
        k=weights.k * norm,
        v=weights.v * norm,
        q_bias=bias(weights.q, weights.q_bias),
        k_bias=bias(weights.k, weights.k_bias),
        v_bias=bias(weights.v, weights.v_bias),
    )


def rest_of_layer(read: TensorReader, layer: int) -> dict[str, Tensor]:
    """What else changes in a layer: the first projection of the MLP, and a LayerNorm that only norms.

    By Phi's names, in float32 or wider.
    """
    weight, bias = (read(f"gpt_neox.layers.{layer}.mlp.dense_h_to_4h.{kind}") for kind in ("weight", "bias"))
    wide = torch.promote_types(weight.dtype, torch.float32)
    weight, bias = weight.to(wide), bias.to(wide)
    norm, shift = _norm(read, layer, "post_attention_layernorm", wide)
    path = f"model.layers.{layer}"
    return {
        f"{path}.mlp.fc1.weight": weight * norm,
        f"{path}.mlp.fc1.bias": bias + weight @ shift,
        f"{path}.input_layernorm.weight": torch.ones_like(norm),
        f"{path}.input_layernorm.bias": torch.zeros_like(shift),
    }


def _norm(read: TensorReader, layer: int, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias, each (D,)."""
    weight, bias = (read(f"gpt_neox.layers.{layer}.{name}.{kind}").to(dtype) for kind in ("weight", "bias"))
    return weight, bias
