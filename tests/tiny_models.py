"""Tiny random models of every supported family: no download, deterministic by seed, milliseconds to build.

All weights are random and none is trivial: biases are not zero, norm weights are not one, so that a
test fails when a bias is forgotten or a norm is applied to the wrong head. Logits are of order 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from gqasearch.models import Parent
from tests.tiny_described import DESCRIBED_NAMES, OLDER_NAMES, classes_of, own_fields
from tests.tiny_towers import TOWER_NAMES, tower_model

FAMILY_NAMES = ("llama", "mistral", "qwen2", "qwen3")  # those with a stock GQA form
ALL_FAMILY_NAMES = (*FAMILY_NAMES, "gpt_neox", "falcon", "opt")
# Variants of families with a LayerNorm of every head: one with weights of all heads, two with every head's own.
LAYER_NORMED_HEADS = ("phi_normed", "stablelm_normed", "cohere_normed")
# Families whose code differs from one of the above in few places: tests of what is the same in all leave them out.
MORE_GROUPED_NAMES = (
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi3",
    "starcoder2",
    "olmo",
    "stablelm",
    "granite",
    "smollm3",
    "cohere",
    "phi",
    *LAYER_NORMED_HEADS,
)
MORE_FAMILY_NAMES = (*MORE_GROUPED_NAMES, "gpt2")
GROUPED_NAMES = (*FAMILY_NAMES, *MORE_GROUPED_NAMES)
RMS_NORMED = (*FAMILY_NAMES, "gemma", "gemma2", "gemma3_text", "phi3", "granite", "smollm3")
NAMING_HEAD_DIM = ("llama", "mistral", "qwen3", "gemma", "gemma2", "gemma3_text")
SPECIAL_TOKENS = ("<s>", "</s>", "<unk>")
VOCAB_SIZE = len(SPECIAL_TOKENS) + 256

_CLASSES: dict[str, tuple[type[Any], type[Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM),
    "falcon": (FalconConfig, FalconForCausalLM),
    "opt": (OPTConfig, OPTForCausalLM),
    "gemma": (GemmaConfig, GemmaForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
    "gemma3_text": (Gemma3TextConfig, Gemma3ForCausalLM),
    "phi3": (Phi3Config, Phi3ForCausalLM),
    "starcoder2": (Starcoder2Config, Starcoder2ForCausalLM),
    "olmo": (OlmoConfig, OlmoForCausalLM),
    "stablelm": (StableLmConfig, StableLmForCausalLM),
    "granite": (GraniteConfig, GraniteForCausalLM),
    "smollm3": (SmolLM3Config, SmolLM3ForCausalLM),
    "cohere": (CohereConfig, CohereForCausalLM),
    "phi": (PhiConfig, PhiForCausalLM),
    "phi_normed": (PhiConfig, PhiForCausalLM),
    "stablelm_normed": (StableLmConfig, StableLmForCausalLM),
    "cohere_normed": (CohereConfig, CohereForCausalLM),
    "gpt2": (GPT2Config, GPT2LMHeadModel),
}


def kv_head_choices(family: str, heads: int = 6) -> list[int]:
    """KV head counts that a source of this family may have: MHA, and GQA where there is one."""
    return [heads, heads // 2] if family in (*GROUPED_NAMES, *DESCRIBED_NAMES, *TOWER_NAMES, "falcon") else [heads]


def tiny_model(
    family: str,
    *,
    heads: int = 6,
    kv_heads: int | None = None,
    layers: int = 2,
    head_dim: int = 8,
    hidden: int | None = None,
    vocab: int = VOCAB_SIZE,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    tied: bool = False,
    **config: Any,
) -> PreTrainedModel:
    """A random model; MHA unless ``kv_heads`` is given. ``config``: further fields of the family's config.

    The global random state of torch is left as it was.
    """
    width = heads * head_dim if hidden is None else hidden
    fields: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "attention_dropout": 0.0,
    }
    if family in (*GROUPED_NAMES, *DESCRIBED_NAMES, *TOWER_NAMES):
        fields |= {"intermediate_size": 2 * width, "num_key_value_heads": heads if kv_heads is None else kv_heads}
        if family in RMS_NORMED:
            fields["rms_norm_eps"] = 1e-6
    elif family == "falcon":
        fields |= {"ffn_hidden_size": 2 * width, "num_kv_heads": heads if kv_heads is None else kv_heads}
        fields["new_decoder_architecture"] = True
    elif kv_heads not in (None, heads):
        raise ValueError(f"{family} has no grouped form")
    fields |= _family_fields(family, width, heads, head_dim)
    fields |= {name: (fields[name] * layers)[:layers] for name in ("layer_types", "no_rope_layers") if name in fields}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _made(family, fields | config)
    randomise(model, seed)
    return model.to(dtype).eval()


def _made(family: str, fields: dict[str, Any]) -> PreTrainedModel:
    if family in TOWER_NAMES:
        return tower_model(family, fields)
    config_class, model_class = classes_of(family) if family in (*DESCRIBED_NAMES, *OLDER_NAMES) else _CLASSES[family]
    model: PreTrainedModel = model_class(config_class(**fields))
    return model


def _family_fields(family: str, width: int, heads: int, head_dim: int) -> dict[str, Any]:
    """What one family's config has and others have not."""
    if family in (*DESCRIBED_NAMES, *OLDER_NAMES):
        return own_fields(family, head_dim)
    if family in TOWER_NAMES:
        return {"head_dim": head_dim, "rms_norm_eps": 1e-6}
    if family == "gpt_neox":
        return {"intermediate_size": 2 * width, "rotary_pct": 0.5}
    if family == "opt":
        return {"ffn_dim": 2 * width, "dropout": 0.0}
    if family == "gpt2":
        return {"n_inner": 2 * width, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    fields: dict[str, Any] = dict(_OWN_FIELDS.get(family, {}))
    # These families' own checkpoints name no head_dim; their code takes hidden / heads then.
    if family in NAMING_HEAD_DIM or width != heads * head_dim:
        fields["head_dim"] = head_dim
    if family == "mistral":
        fields["sliding_window"] = None
    return fields


# What makes these families differ from Llama: scores that are scaled and capped, factors, partial rotary, layers alike
# in kind but not in RoPE.
_OWN_FIELDS: dict[str, dict[str, Any]] = {
    "gemma2": {
        "query_pre_attn_scalar": 12,
        "attn_logit_softcapping": 3.0,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 8,
    },
    "gemma3_text": {
        "query_pre_attn_scalar": 12,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 8,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        },
    },
    "phi3": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
    "starcoder2": {"sliding_window": None},
    "stablelm": {"use_qkv_bias": True, "partial_rotary_factor": 0.5},
    "granite": {"attention_multiplier": 0.5, "residual_multiplier": 0.4, "logits_scaling": 1.0},
    "smollm3": {"no_rope_layers": [1, 0], "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "cohere": {"logit_scale": 1.0, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "phi": {"partial_rotary_factor": 0.5},
    "phi_normed": {"partial_rotary_factor": 0.5, "qk_layernorm": True},
    "stablelm_normed": {"partial_rotary_factor": 0.5, "qk_layernorm": True},
    "cohere_normed": {
        "logit_scale": 1.0,
        "use_qk_norm": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
}


def tiny_parent(family: str, **options: Any) -> Parent:
    """``tiny_model`` as a parent in memory; same options."""
    return Parent.from_model(tiny_model(family, **options))


def randomise(model: PreTrainedModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith((".q_norm.weight", ".k_norm.weight")) or (
                name.endswith(".weight") and parameter.dim() == 1
            ):
                parameter.copy_(1.0 + 0.3 * noise)
            elif name.endswith(".bias"):
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, no merges: one token per byte, any text comes back. ``VOCAB_SIZE`` tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    bos, eos, unk = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, unk_token=unk, pad_token=eos, model_max_length=128
    )


def save_checkpoint(model: PreTrainedModel, directory: Path, *, max_shard_size: str = "1GB") -> Path:
    """Write model, tokenizer and generation config as a checkpoint folder; "20KB" makes several shards."""
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def edit_config(directory: Path, remove: tuple[str, ...] = (), **changes: Any) -> None:
    """Change fields of a checkpoint's ``config.json`` by hand."""
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in remove}), encoding="utf-8")
