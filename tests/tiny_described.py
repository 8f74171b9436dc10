"""Configurations of tiny random models of the families that are a few words each (``families_described``)."""

from __future__ import annotations

from typing import Any

import transformers

ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
HALF = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
WINDOWS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}

# Family -> the name that its classes begin with, and fields of its own.
DENSE: dict[str, tuple[str, dict[str, Any]]] = {
    "helium": ("Helium", ROPE),
    "arcee": ("Arcee", ROPE),
    "seed_oss": ("SeedOss", ROPE | {"attention_bias": True, "residual_dropout": 0.0}),
    "glm": ("Glm", HALF | {"attention_bias": True}),
    "glm4": ("Glm4", HALF),
    "cohere2": ("Cohere2", ROPE | WINDOWS | {"logit_scale": 1.0}),
    "nemotron": ("Nemotron", HALF),
    "exaone4": ("Exaone4", ROPE | WINDOWS),
    "apertus": ("Apertus", ROPE),
    "ministral3": ("Ministral3", ROPE | {"sliding_window": 8}),
    "ministral": ("Ministral", ROPE | WINDOWS),
}
DENSE["ministral3"][1]["rope_parameters"] = {
    "rope_type": "default",
    "rope_theta": 10000.0,
    "llama_4_scaling_beta": 0.3,
    "original_max_position_embeddings": 10,  # so that tiny texts go beyond it
}
# Four experts, of which two serve every token.
MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2_moe": (
        "Qwen2Moe",
        ROPE
        | {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 24,
        },
    ),
    "qwen3_moe": ("Qwen3Moe", ROPE | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}),
    "mixtral": ("Mixtral", ROPE | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "granitemoe": (
        "GraniteMoe",
        ROPE
        | {"num_local_experts": 4, "num_experts_per_tok": 2, "attention_multiplier": 0.5, "residual_multiplier": 0.4},
    ),
    "gpt_oss": (
        "GptOss",
        ROPE | WINDOWS | {"num_local_experts": 4, "num_experts_per_tok": 2, "attention_bias": True},
    ),
    "phimoe": ("Phimoe", ROPE | {"num_local_experts": 4, "num_experts_per_tok": 2, "attention_bias": True}),
}
BY_KIND = {
    "rope_parameters": {
        kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("sliding_attention", "full_attention")
    }
}
# A norm over the keys of all heads.
WHOLE_NORMED: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo2": ("Olmo2", ROPE),
    "olmo3": ("Olmo3", BY_KIND | WINDOWS),
    "olmoe": ("Olmoe", ROPE | {"num_experts": 4, "num_experts_per_tok": 2}),
}
# Written as a Phi. CodeGen's heads lie in four parts: tests of it take 8 or 12 of them.
OLDER: dict[str, tuple[str, dict[str, Any]]] = {
    "gptj": ("GPTJ", {"rotary_dim": 4, "n_inner": 96, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "codegen": ("CodeGen", {"rotary_dim": 4, "n_inner": 96, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
}
# Ragged alone.
OLDER["gpt_neo"] = (
    "GPTNeo",
    {
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
        "intermediate_size": 96,
        **dict.fromkeys(("resid_dropout", "embed_dropout", "attention_dropout"), 0.0),
    },
)
NO_DROPOUT = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
OLDER["biogpt"] = ("BioGpt", {"intermediate_size": 96, **NO_DROPOUT})
OLDER["xglm"] = ("XGLM", {"ffn_dim": 96, "dropout": 0.0})
OLDER["gpt_bigcode"] = (
    "GPTBigCode",
    {"multi_query": False, "n_inner": 96, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
)
OLDER["persimmon"] = ("Persimmon", HALF | {"intermediate_size": 96})
COPIED_NAMES = ("gpt_neo", "biogpt", "xglm", "gpt_bigcode", "persimmon")  # whose ragged form calls the stock attention
OLDER_NAMES = tuple(OLDER)
TINY = DENSE | MIXTURES | WHOLE_NORMED
MIXTURE_NAMES = (*MIXTURES, "olmoe")
WHOLE_NORMED_NAMES = tuple(WHOLE_NORMED)
DESCRIBED_NAMES = tuple(TINY)
# Those whose configs name no head_dim of their own, or take none.
WITHOUT_HEAD_DIM = ("olmoe",)
LAYER_NORMED = ("cohere2", "nemotron")


def classes_of(family: str) -> tuple[type[Any], type[Any]]:
    """Its config class and its model class."""
    name = (TINY | OLDER)[family][0]
    return getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}ForCausalLM")


def own_fields(family: str, head_dim: int) -> dict[str, Any]:
    """What its config has and others have not."""
    if family in OLDER:
        return dict(OLDER[family][1])
    fields = dict(TINY[family][1])
    if family not in WITHOUT_HEAD_DIM:
        fields["head_dim"] = head_dim
    if family not in LAYER_NORMED:
        fields["rms_norm_eps"] = 1e-6
    return fields
